"""A store for tests: moto's S3 server on loopback, behind a gate that counts requests and lets some of them fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BUCKET = "pictures"
_ERRORS = {
    403: "AccessDenied",
    500: "InternalError",
    503: "SlowDown",
}


@dataclass
class Gate:
    """In front of the store: `calls` are the requests so far, and `fails` says with which status one fails, by its number,
    method and path, or 0 for none; -1 ends the answer in its middle."""

    calls: list[str] = field(default_factory=list)
    fails: Callable[[int, str], int] = lambda number, call: 0
    _alone: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Forget the calls, and let all pass."""
        self.calls.clear()
        self.fails = lambda number, call: 0

    def around(self, app: Any) -> Any:
        """The WSGI application behind the gate."""

        def gated(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            call = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            call += " list" if "list-type" in environ.get("QUERY_STRING", "") else ""
            with self._alone:
                self.calls.append(call)
                status = self.fails(len(self.calls), call)
            if status > 0:
                error = f"<Error><Code>{_ERRORS[status]}</Code><Message>no</Message></Error>".encode()
                start_response(
                    f"{status} no", [("Content-Type", "application/xml"), ("Content-Length", str(len(error)))]
                )
                return [error] if environ["REQUEST_METHOD"] != "HEAD" else []
            body = b"".join(app(environ, start_response))
            return [body[: len(body) // 2] if status < 0 else body]

        return gated


class Bucket:
    """A bucket of the store; keys are paths in it."""

    def __init__(self, address: str, gate: Gate) -> None:
        import boto3

        self.address, self.gate = address, gate
        # The store without the gate's faults is filled by the same server: nothing fails while a test does not ask for it.
        self._client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        self._client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, data: bytes) -> str:
        """Write an object; returns its path."""
        self._client.put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def upload(self, folder: Path, prefix: str) -> str:
        """Write every file of a folder; returns the path of the prefix."""
        for file in sorted(folder.rglob("*")):
            if file.is_file() and ".mmsearch" not in file.parts:
                self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=key)


@contextmanager
def store() -> Iterator[Bucket]:
    """The server, with credentials and its address in the environment."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    gate = Gate()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = gate.around(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": address,
        }.items():
            patch.setenv(name, value)
        try:
            yield Bucket(address, gate)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
