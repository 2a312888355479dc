"""The command of this checkout for many calls in a row: one process loads the libraries, and forks for each call.

A call is a process of its own, with its own folder, environment and streams; what it spares is importing torch and the others
again, which is most of the time of a short command. `python -m tests.forked ADDRESS` is the process that forks.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

# What a call would import: none of these starts a thread or reads a setting of mmsearch by being imported.
_LIBRARIES = (
    "torch",
    "open_clip",
    "faiss",
    "pyarrow.parquet",
    "onnxruntime",
    "PIL.Image",
    "rich.table",
    "rich.progress",
)
_OWN = (
    "cli.main",
    "retrieval.engine",
    "retrieval.crossmodal.rerank",
    "indexer.build",
    "indexer.run",
    "benchmarks.recall",
)
# The command that a shell starts: it hands its words and streams over, and ends as the call does.
_CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    body = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(line, [len(body).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(body)
    code = line.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextmanager
def forking_command(folder: Path) -> Iterator[Path]:
    """A folder for PATH with the command `mmsearch`, for as long as the context lasts."""
    address = folder / "call"
    tool = folder / "mmsearch"
    tool.write_text(_CLIENT.format(python=sys.executable, address=str(address)), "utf-8")
    tool.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # It ends when its input does, also where this process is killed.
        yield folder


def _serve(address: str) -> None:
    for name in (*_LIBRARIES, *_OWN):
        importlib.import_module(name)
    # Nobody waits for those that answer a call.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            line, _ = listener.accept()
            with line:
                if os.fork() == 0:
                    listener.close()
                    _answer(line)


def _answer(line: socket.socket) -> None:
    """Run the call that comes by `line` in a fork, and tell its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(line, 8, 3)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        body += line.recv(size - len(body))
    runner = os.fork()
    if runner == 0:
        words, folder, environment = json.loads(body)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        os._exit(_run(words))
    _, status = os.waitpid(runner, 0)
    line.sendall(bytes([os.waitstatus_to_exitcode(status) & 255]))
    os._exit(0)


def _run(words: list[str]) -> int:
    from cli.main import main

    sys.argv = ["mmsearch", *words]
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    _serve(sys.argv[1])
