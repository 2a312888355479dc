"""What a server writes down: a line a request without secrets, measurements of the index, and its own messages."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from retrieval.errors import MmsearchError
from server.logs import AccessLog
from tests.conftest import ROOT, Command, build, write_photos

TOKEN = "a-token-that-is-secret"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ([A-Z]+) (\S+) (\d{3}) (\d+\.\d) (\d+)")


@pytest.fixture
def media(tmp_path: Path, mini: object) -> Path:
    write_photos(tmp_path / "m", 3)
    (tmp_path / "m" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "m" / "note.txt").write_text("a note")
    build(tmp_path / "m", mini)  # type: ignore[arg-type]
    return tmp_path / "m"


def test_the_real_server_logs_requests_without_secrets_and_measures_its_index(media: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "access.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "mmsearch", "serve", "--index", str(media), "--port", str(port), "--token", TOKEN,
         "--access-log", str(log), "--log-level", "info", "--watch"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as web:
            signed = {"Authorization": f"Bearer {TOKEN}"}
            for _ in range(600):
                try:
                    assert web.get("/healthz").status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            assert web.get("/api/status").status_code == 401
            assert web.get("/", params={"token": TOKEN, "q": "private words"}).status_code == 303
            found = web.post("/api/search", json={"text": "private words"}, headers=signed)
            picture = web.get(found.json()["hits"][0]["media_url"], headers=signed)
            assert web.get("/no%0Asuch%20page", headers=signed).status_code == 404
            for _ in range(300):
                metrics = web.get("/metrics", headers=signed).text
                if 'mmsearch_watch_state{state="watching"} 1.0' in metrics:
                    break
                time.sleep(0.1)
            for line in (
                'items{kind="image"} 3.0',
                'items{kind="text"} 1.0',
                'items{kind="video"} 0.0',
                "failures 1.0",
            ):
                assert f"mmsearch_index_{line}" in metrics
            assert 'mmsearch_watch_state{state="failing"} 0.0' in metrics
            write_photos(media, 1, start=50)
            for _ in range(300):
                if 'mmsearch_index_items{kind="image"} 4.0' in web.get("/metrics", headers=signed).text:
                    break
                time.sleep(0.1)
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert "INFO 1 indexed, 0 removed" in errors
    text = log.read_text()
    assert TOKEN not in text and "private" not in text
    lines = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(lines)
    seen = [match.groups() for match in lines if match is not None]
    assert ("POST", "/api/search", "200") in [entry[:3] for entry in seen]
    assert ("GET", "/api/status", "401") in [entry[:3] for entry in seen]
    assert ("GET", "/no%0Asuch%20page", "404") in [entry[:3] for entry in seen]
    assert str(len(picture.content)) in [size for _, path, _, _, size in seen if path.startswith("/media/")]


def test_a_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(file)
    log.request("GET", "/", 200, 0.0123, 5)
    file.rename(tmp_path / "access.log.1")
    log.request("GET", "/later", 200, 0.5, 7)
    log.close()
    assert (tmp_path / "access.log.1").read_text().split()[1:] == ["GET", "/", "200", "12.3", "5"]
    assert file.read_text().split()[1:] == ["GET", "/later", "200", "500.0", "7"]


def test_a_log_that_cannot_be_written_and_an_unknown_level_are_told_at_once(media: Path, command: Command) -> None:
    with pytest.raises(MmsearchError, match=r"--access-log: cannot write /no/such/log: No such file"):
        AccessLog(Path("/no/such/log"))
    done = command("serve", "--index", str(media), "--log-level", "loud")
    assert done.returncode == 2 and "debug, info, warning, error, critical" in done.stderr.replace("\n", " ")
