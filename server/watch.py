"""`serve --watch`: the index follows its folder, and says what it is doing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import watch

from indexer.build import BuildConfig, IndexBuild
from indexer.run import open_encoder
from retrieval.errors import MmsearchError
from retrieval.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class WatchState:
    """`state` is `watching` or `indexing`; `error` says in one line why the last run ended early."""

    state: str = "watching"
    done: int = 0
    total: int = 0
    path: str = ""
    error: str | None = None


class Watcher:
    """Brings the index up to date once, and again after every change below the roots, on a thread of its own."""

    def __init__(self, folder: Path, roots: Sequence[Path], device: str) -> None:
        self._folder, self._roots, self._device = folder, list(roots), device
        self._stop = threading.Event()
        self.state = WatchState()
        self._encoder: Encoder | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; a run that is under way commits what it has done."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self._index()
        own = str(self._folder)
        changes = watch(
            *self._roots,
            watch_filter=lambda _, path: not path.startswith(own) and "/." not in path,
            stop_event=self._stop,
            rust_timeout=500,
            yield_on_timeout=False,
            raise_interrupt=False,
        )
        for _ in changes:
            self._index()

    def _index(self) -> None:
        """One run. What goes wrong is told in the state, and the next change tries again."""
        try:
            if self._encoder is None:
                self._encoder = open_encoder(self._folder, "auto", self._device, "auto").encoder
            build = IndexBuild(self._roots, self._folder, self._encoder, BuildConfig())
            for event in build:
                self.state = WatchState(state="indexing", done=event.done, total=event.total, path=event.path)
                if self._stop.is_set():
                    return
            self.state = WatchState()
        except MmsearchError as error:
            self.state = WatchState(error=str(error))
        except Exception as error:
            self.state = WatchState(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
