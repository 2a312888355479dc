"""Modules of this program in processes of their own, wherever the working folder is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

_HOME = str(Path(__file__).parents[1])


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module. `-P` keeps the working folder off the import path: it may be a folder of media, and no
    file of it, be it called `numpy.py`, may ever be imported."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """The environment for it: this program can be imported also where it runs from a source tree that is not installed, and
    what `PYTHONPATH` names only by way of the working folder cannot."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([_HOME, *(path for path in given if os.path.isabs(path))])}


def bound_memory(size: int) -> None:
    """Where the system can, let what needs more than `size` bytes fail in this process, instead of the machine."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


class Child:
    """A module that answers on its standard output, started when it is first needed and again where it has ended. With
    `one_thread`, its libraries compute on one: several such processes work side by side."""

    def __init__(self, module: str, *, one_thread: bool = False) -> None:
        self._module = module
        self._threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if one_thread else {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def started(self) -> subprocess.Popen[bytes]:
        """The process, its input and output pipes."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                module_command(self._module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**module_environment(), **self._threads},
                # Ctrl-C is for the process that started this one, and then ends it.
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                # What was written to a process that has ended cannot be flushed any more.
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
