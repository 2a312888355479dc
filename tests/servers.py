"""The real server on loopback, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from media.image import register_decoders
from server.app import ServeConfig, create_app
from server.guard import host_names


@contextmanager
def serving(folder: Path, *, token: str | None = None, watch: bool = False) -> Iterator[str]:
    """Serve an index, and give the server's address without a slash at its end."""
    register_decoders()
    config = ServeConfig(folder=folder, hosts=host_names("127.0.0.1", []), token=token, device="cpu", watch=watch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
