"""Starting a module of this program in a process of its own, wherever the working folder is."""

from __future__ import annotations

import os
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
