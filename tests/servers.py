"""The real server on loopback, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from server.app import ServeConfig, create_app
from server.guard import host_names
from server.run import http_server


@contextmanager
def serving(
    folder: Path, *, token: str | None = None, watch: bool = False, config: ServeConfig | None = None
) -> Iterator[str]:
    """Serve an index, and give the server's address without a slash at its end."""
    hosts = host_names("127.0.0.1", [])
    config = config or ServeConfig(folder=folder, hosts=hosts, token=token, device="cpu", watch=watch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = http_server(create_app(replace(config, port=port)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
