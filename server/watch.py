"""`serve --watch`: the index follows its folder, and says what it is doing.

One thread collects changes, from before the first run on; another indexes. Changes during a run wait for the next one, so
none is lost. The first run compares everything, the others just the paths that changed;
once an hour, and after a run that failed, everything is compared again, since systems do not report every change.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import watch

from indexer.build import IndexBuild
from indexer.config import BuildConfig
from indexer.run import open_encoder
from media.excludes import MARKS
from media.types import below
from retrieval.errors import MmsearchError
from retrieval.models.encoder import Encoder
from retrieval.store.manifest import read_manifest
from server.logs import LOGGER

_log = logging.getLogger(LOGGER)
_STEP_MILLISECONDS = 500
_WHOLE_SECONDS = 3600.0
_RETRY_SECONDS = 60.0
# Beyond this many paths at once, as when a disk is copied, listing the roots costs less.
_MOST_PATHS = 10_000


@dataclass(frozen=True, kw_only=True)
class WatchState:
    """`state` is `watching` or `indexing`. Of `total` files that are known to have changed, `done` are done, of which so many
    `failed`; the total grows while the folders are still being listed. `error` says in one line why the last run ended
    early, or why changes cannot be watched."""

    state: str = "watching"
    done: int = 0
    total: int = 0
    failed: int = 0
    path: str = ""
    error: str | None = None

    @property
    def remaining(self) -> int:
        """How many files are known to be left."""
        return max(0, self.total - self.done)


class Watcher:
    """Brings the index up to date once, and again after every change below the roots, on threads of its own.

    With `encoder`, the index's model need not be loaded again. With `poll`, the roots are looked through every so many
    seconds, for folders that report no changes.
    """

    def __init__(
        self,
        folder: Path,
        roots: Sequence[Path],
        device: str,
        poll: float | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self._folder, self._device, self._poll = folder, device, poll
        self._roots = list(roots)
        self._hidden = _Hidden(folder, roots)
        self._stop = threading.Event()
        self._changed: set[str] = set()
        self._change = threading.Condition()
        self._listening = threading.Event()
        self._watch_error: str | None = None
        # The first look at everything is due.
        self.state = WatchState(state="indexing")
        # Files of no kind that is indexed, by suffix, as the last look at everything found them.
        self.skipped: Mapping[str, int] | None = None
        self._encoder = encoder
        # Where folders are reached by links, a path that changed does not tell which files it concerns.
        self._links = False
        self._threads = [
            threading.Thread(target=self._listen, name="watch", daemon=True),
            threading.Thread(target=self._run, name="index", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End; a run that is under way commits what it has done."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        """Collect the paths that change. The first answer, empty or not, says that the system is listening."""
        try:
            changes = watch(
                *self._roots,
                watch_filter=lambda _, path: _of_marks(path) not in self._hidden,
                stop_event=self._stop,
                rust_timeout=_STEP_MILLISECONDS,
                yield_on_timeout=True,
                raise_interrupt=False,
                force_polling=self._poll is not None,
                poll_delay_ms=int(1000 * (self._poll or 0.3)),
            )
            for batch in changes:
                self._listening.set()
                if batch:
                    # What an ignore file says concerns the whole folder.
                    with self._change:
                        self._changed |= {self._as_indexed(_of_marks(path)) for _, path in batch}
                        self._change.notify()
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            self._watch_error = f"changes are not heard ({reason}); start with --watch-poll 30 to look for them instead"
        finally:
            self._listening.set()

    def _run(self) -> None:
        self._listening.wait()
        due = self._whole()
        while not self._stop.is_set():
            with self._change:
                self._change.wait_for(lambda: self._changed or self._stop.is_set(), max(0.0, due - time.monotonic()))
                changed, self._changed = frozenset(self._changed), set()
            if self._stop.is_set():
                return
            named = (
                changed and not self._links and len(changed) <= _MOST_PATHS and not any(map(os.path.islink, changed))
            )
            if not named:
                due = self._whole()
            elif not self._index(changed):
                due = time.monotonic() + _RETRY_SECONDS

    def _whole(self) -> float:
        """Compare everything; gives the time when to do so next, soon after a run that failed."""
        return time.monotonic() + (_WHOLE_SECONDS if self._index(None) else _RETRY_SECONDS)

    def _index(self, changed: frozenset[str] | None) -> bool:
        """One run over the paths that changed (None: all that is below the roots); whether it came to its end."""
        self.state = WatchState(state="indexing", path=min(changed or (), default=""))
        try:
            if self._encoder is None or self._encoder.spec.name != read_manifest(self._folder).model.name:
                self._encoder = open_encoder(self._folder, "auto", self._device, "auto").encoder
            paths = sorted(changed) if changed else self._roots
            build = IndexBuild(paths, self._folder, self._encoder, BuildConfig(eager=True))
            for event in build:
                self.state = WatchState(
                    state="indexing", done=event.done, total=event.total, failed=event.failed, path=event.path
                )
                if self._stop.is_set():
                    return False
            if build.report is not None and changed is None:
                self._links = build.report.links
                self.skipped = build.report.skipped
            self.state = WatchState(error=self._watch_error)
            report = build.report
            if report is not None and (report.indexed or report.removed):
                _log.info("%d indexed, %d removed, %d failed", report.indexed, report.removed, report.failed)
            return True
        except MmsearchError as error:
            self.state = WatchState(error=str(error))
            _log.warning("not indexed: %s", error)
        except Exception as error:  # A later run tries again, whatever went wrong
            self.state = WatchState(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            _log.error("not indexed: %s", self.state.error, exc_info=_log.isEnabledFor(logging.DEBUG))
        return False

    def _as_indexed(self, path: str) -> str:
        """A path as the system reports it, in the spelling of the root that holds it."""
        for root in map(str, self._roots):
            real = os.path.realpath(root)
            if not below(path, root) and below(path, real):
                return os.path.join(root, path[len(real) :].lstrip(os.sep))
        return path


class _Hidden:
    """Paths that are not indexed: the index itself, and what a name with a dot hides below a root. What hides the root
    itself does not count: it was named."""

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self._folders = _spellings(folder)
        self._roots = [spelling for root in roots for spelling in _spellings(root)]

    def __contains__(self, path: str) -> bool:
        if any(path == folder or path.startswith(folder + os.sep) for folder in self._folders):
            return True
        below = [path[len(root) :] for root in self._roots if path.startswith(root.rstrip(os.sep) + os.sep)]
        return bool(below) and all(any(name.startswith(".") for name in rest.split(os.sep)) for rest in below)


def _of_marks(path: str) -> str:
    """The folder of an ignore file, whose name begins with a dot as what is hidden does; any other path as it is."""
    return os.path.dirname(path) if os.path.basename(path) in MARKS else path


def _spellings(path: Path) -> set[str]:
    """A path as it was named, and its real path."""
    return {os.path.abspath(path), os.path.realpath(path)}
