"""How the command's process ends: what is registered is done, output is written, and native libraries are not torn down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def ended(arguments: list[str], before: str = "", run: str = "run") -> subprocess.CompletedProcess[str]:
    """A process that runs the command after some lines of Python."""
    code = f"import sys\n{before}\nfrom cli.main import run, main\nsys.argv = {['mmsearch', *arguments]!r}\n{run}()\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["search", "--nothing"], 2)])
def test_the_exit_status_is_the_commands(arguments: list[str], status: int) -> None:
    assert ended(arguments).returncode == status


def test_what_the_command_registers_is_done_and_all_output_is_written() -> None:
    lines = (
        "import atexit, threading, time, cli.main",
        "def acts():",
        "    atexit.register(print, 'registered')",
        "    threading.Thread(target=lambda: (time.sleep(0.3), print('waited for'))).start()",
        "    print('done')",
        "cli.main.main = acts",
    )
    done = ended([], "\n".join(lines))
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["done", "waited for", "registered"]


def test_an_unexpected_interrupt_still_ends_as_one() -> None:
    done = ended(["--version"], "import cli.main\ndef stopped(): raise KeyboardInterrupt\ncli.main.main = stopped")
    assert done.returncode not in (0, 1)
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="on_exit is of glibc")
def test_native_libraries_are_not_torn_down() -> None:
    # Called where a process ends as it usually does.
    abort = "import ctypes\nlibrary = ctypes.CDLL(None)\nlibrary.on_exit(library.abort, None)"
    assert ended(["--version"], abort, run="main").returncode < 0
    assert ended(["--version"], abort).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
def test_output_that_cannot_be_written_is_a_failure() -> None:
    code = "import sys\nfrom cli.main import run\nsys.argv = ['mmsearch', '--help']\nrun()\n"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
