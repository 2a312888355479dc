"""The command as a process of its own, forked from one that has imported what it needs: that takes most of a command's time.

    python -m tests.preloaded SOCKET            serves until its standard input ends
    python tests/preloaded.py SOCKET WORDS...   runs `mmsearch WORDS...` there, with its own folder, environment and streams

Tests of how the program starts, of what it imports and of signals start Python itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

_FEW = 1 << 20


def call(address: str, words: list[str], cwd: str, env: dict[str, str], streams: list[int]) -> int:
    """Run `mmsearch` with these words, and descriptors for its streams; returns its exit status."""
    request = json.dumps({"words": words, "cwd": cwd, "env": env}).encode("utf-8", "surrogateescape")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(300)
        connection.connect(address)
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], streams)
        connection.sendall(request)
        answer = connection.recv(4)
    if len(answer) != 4:
        raise RuntimeError("the process that forks commands has ended")
    return int.from_bytes(answer, "big", signed=True)


def run(address: str, words: list[str], cwd: str, env: dict[str, str]) -> tuple[int, str, str]:
    """The exit status of `mmsearch WORDS...`, its standard output and its standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, open(os.devnull, "rb") as nothing:
        status = call(address, words, cwd, env, [nothing.fileno(), out.fileno(), err.fileno()])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "surrogateescape"))
    return status, texts[0], texts[1]


def serve(address: str) -> None:
    """Import, then fork a command for each connection, until standard input ends."""
    _preload()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    # Whoever supervises a command is not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    threading.Thread(target=_end_with_input, daemon=True).start()
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        _supervise(connection)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _preload() -> None:
    import faiss  # noqa: F401
    import onnxruntime  # noqa: F401
    import open_clip  # noqa: F401
    import openvino  # noqa: F401
    import PIL.Image
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401
    import torch  # noqa: F401

    import cli.main

    PIL.Image.preinit()
    cli.main.application()


def _supervise(connection: socket.socket) -> None:
    """Run one command and send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    request = bytearray()
    while len(request) < int.from_bytes(size, "big"):
        part = connection.recv(_FEW)
        if not part:
            os._exit(0)
        request += part
    process = os.fork()
    if process == 0:
        connection.close()
        status = 70
        try:
            status = _command(json.loads(request.decode("utf-8", "surrogateescape")), list(streams))
        finally:
            os._exit(status)
    threading.Thread(target=_end_with_caller, args=(connection, process), daemon=True).start()
    _, waited = os.waitpid(process, 0)
    connection.sendall(os.waitstatus_to_exitcode(waited).to_bytes(4, "big", signed=True))
    os._exit(0)


def _end_with_caller(connection: socket.socket, process: int) -> None:
    """Kill a command whose caller waits no longer."""
    if connection.recv(1) == b"":
        os.kill(process, signal.SIGKILL)


def _command(request: dict[str, object], streams: list[int]) -> int:
    """What the interpreter does for `python -m mmsearch WORDS...`; returns the exit status."""
    import gc

    words, cwd, env = request["words"], request["cwd"], request["env"]
    assert isinstance(words, list) and isinstance(cwd, str) and isinstance(env, dict)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", errors="strict", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="strict", closefd=False)
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = ["mmsearch", *words]
    gc.enable()

    from cli.main import main

    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        status = 130
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


if __name__ == "__main__":
    if sys.argv[2:]:
        raise SystemExit(call(sys.argv[1], sys.argv[2:], os.getcwd(), dict(os.environ), [0, 1, 2]))
    sys.path.insert(0, str(Path(__file__).parents[1]))
    serve(sys.argv[1])
