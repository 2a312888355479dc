"""`mmsearch serve FOLDER`, which makes the index that it serves, and the addresses that `serve` prints."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cli.listening import listen, names, qr_code, reachable, split_address, token_of
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from indexer.run import begin_index
from retrieval.engine import Engine
from retrieval.errors import IndexNotFoundError, MmsearchError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.store.manifest import read_manifest
from retrieval.types import Query
from server.app import ServeConfig
from server.guard import host_names
from server.watch import WatchState
from tests.conftest import ROOT, Command, build, write_photos
from tests.servers import serving
from tests.test_watch import until

RUN = [sys.executable, "-m", "mmsearch", "serve", "--port", "0"]


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address that the real command prints, while it runs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*RUN, *arguments], stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                found = re.search(r"http://\S+", line)
                if found:
                    yield found.group(0).rstrip("/")
                    break
            else:
                raise AssertionError(lines)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_a_folder_without_an_index_is_served_while_it_is_made(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 40)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    (tmp_path / "what.xyz").write_text("of no kind")
    with served(str(tmp_path)) as address, httpx.Client(base_url=address, timeout=60) as web:
        assert web.get("/healthz").status_code == 200
        first = web.get("/api/status").json()
        assert first["watch"]["state"] in ("indexing", "watching") and first["model"] == "mini"
        assert until(lambda: web.get("/api/status").json()["watch"]["state"] == "watching")
        done = web.get("/api/status").json()
        assert (done["images"], done["failures"], done["watch"]["error"]) == (40, 1, None)
        assert len(web.post("/api/search", json={"text": "colours", "k": 60}).json()["hits"]) == 40
        told = web.get("/api/failures").json()
        assert [Path(entry["path"]).name for entry in told["failures"]] == ["bad.jpg"]
        assert told["skipped"] == {".xyz": 1} and told["failures"][0]["reason"]
        write_photos(tmp_path / "later", 2, start=80)
        assert until(lambda: web.get("/api/status").json()["images"] == 42), "and it follows the folder"
    assert read_manifest(tmp_path / ".mmsearch").counts.files == 42


def test_what_remains_is_told_while_it_is_indexed(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two files of a run that is held up: some are done and found, some remain."""
    monkeypatch.setattr("indexer.build.EAGER_SECONDS", 0.0)
    write_photos(tmp_path, 80)
    begin_index([str(tmp_path)], tmp_path / ".mmsearch", mini)
    plain = IndexBuild.__iter__
    holding: list[bool] = [True]

    def slowly(self: IndexBuild) -> Iterator[object]:
        for event in plain(self):
            yield event
            while event.done >= 60 and holding[0]:
                time.sleep(0.05)

    monkeypatch.setattr(IndexBuild, "__iter__", slowly)
    config = ServeConfig(
        folder=tmp_path / ".mmsearch", hosts=host_names("127.0.0.1", []), device="cpu", watch=True, encoder=mini
    )
    with serving(tmp_path / ".mmsearch", config=config) as address, httpx.Client(base_url=address, timeout=60) as web:
        assert until(lambda: web.get("/api/status").json()["watch"]["done"] >= 60)
        now = web.get("/api/status").json()
        assert now["watch"]["state"] == "indexing" and now["watch"]["total"] == 80
        assert now["watch"]["remaining"] == 80 - now["watch"]["done"] and now["watch"]["failed"] == 0
        assert 0 < now["images"] < 80, "what is published is found"
        assert web.post("/api/search", json={"text": "colours"}).json()["hits"]
        holding[0] = False
        assert until(lambda: web.get("/api/status").json()["images"] == 80)


def test_an_eager_run_publishes_before_its_end_and_another_does_not(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.build.EAGER_SECONDS", 0.0)
    for eager in (True, False):
        folder = tmp_path / str(eager)
        write_photos(folder, 40)
        seen = set()
        for _ in IndexBuild([folder], folder / ".mmsearch", mini, BuildConfig(batch_size=8, eager=eager)):
            seen.add(read_manifest(folder / ".mmsearch").alive("image"))
        assert (len(seen) > 1) == eager, seen
    assert WatchState(done=5, total=3).remaining == 0


def test_an_empty_index_can_be_searched_and_one_that_is_there_is_kept(tmp_path: Path, mini: Encoder) -> None:
    folder = tmp_path / ".mmsearch"
    with pytest.raises(IndexNotFoundError, match="nothing to index in"):
        begin_index([str(tmp_path)], folder, mini)
    assert not folder.exists()
    write_photos(tmp_path, 2)
    begin_index([str(tmp_path)], folder, mini)
    with Engine.open(folder, device="cpu") as engine:
        assert engine.search(Query(text="colours")) == [] and engine.status()["items"] == 0
        assert engine.search(Query(sort="newest")) == [] and list(engine.duplicates()) == []
    build(tmp_path, mini)
    before = read_manifest(folder)
    begin_index([str(tmp_path)], folder, mini)
    assert read_manifest(folder) == before


def test_a_folder_with_nothing_in_it_is_told_in_one_line(tmp_path: Path, command: Command) -> None:
    (tmp_path / "empty").mkdir()
    done = command("serve", "empty")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: nothing to index in")
    assert not (tmp_path / "empty" / ".mmsearch").exists()
    assert command("serve", "nowhere").returncode == 2


def test_an_index_elsewhere_follows_its_folder(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path / "photos", 3)
    with (
        served(str(tmp_path / "photos"), "--index", str(tmp_path / "apart")) as address,
        httpx.Client(base_url=address, timeout=60) as web,
    ):
        assert until(lambda: web.get("/api/status").json()["images"] == 3)
        hit = web.post("/api/search", json={"text": "colours", "k": 1}).json()["hits"][0]
        assert web.get(hit["media_url"]).status_code == 200
    assert not (tmp_path / "photos" / ".mmsearch").exists()


def test_a_server_that_listens_everywhere_prints_an_address_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {
        socket.AF_INET: ["127.0.1.1", "192.168.1.5", "169.254.3.4"],
        socket.AF_INET6: ["::1", "fe80::1%eth0", "fe80::1", "2001:db8:1::5"],
    }

    class Probe:
        def __init__(self, family: socket.AddressFamily, _: int) -> None:
            self._family = family

        def __enter__(self) -> Probe:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def connect(self, _: object) -> None:
            if self._family == socket.AF_INET6:
                raise OSError("no route")

        def getsockname(self) -> tuple[str, int]:
            return ("10.0.0.7", 1)

    monkeypatch.setattr("cli.listening.socket.socket", Probe)
    monkeypatch.setattr(
        "cli.listening.socket.getaddrinfo",
        lambda _, __, family: [(family, 0, 0, "", (address, 0)) for address in found[family]],
    )
    assert reachable("0.0.0.0") == ["10.0.0.7", "192.168.1.5"]
    assert reachable("::") == ["10.0.0.7", "192.168.1.5", "[2001:db8:1::5]"]
    assert reachable("127.0.0.1") == ["127.0.0.1"] and reachable("::1") == ["[::1]"]
    assert reachable("photos.example") == ["photos.example"]
    found[socket.AF_INET], found[socket.AF_INET6] = [], []
    monkeypatch.setattr(Probe, "getsockname", lambda _: ("127.0.0.1", 1))
    assert reachable("0.0.0.0") == ["127.0.0.1"], "without a network, this machine's own"


def test_a_qr_code_in_the_terminal_is_that_of_the_link() -> None:
    import segno

    link = "http://192.168.1.5:8000/?token=abc-DEF_123"
    lines = qr_code(link).splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines if line.strip()]
    # Half blocks: two rows of the code in one line of letters, where light is drawn.
    light = {"█": (True, True), "▀": (True, False), "▄": (False, True), " ": (False, False)}
    rows: list[list[bool]] = []
    for line in plain:
        pairs = [light[char] for char in line]
        rows += [[upper for upper, _ in pairs], [lower for _, lower in pairs]]
    out = io.StringIO()
    code = segno.make(link, error="l", micro=False)
    code.save(out, kind="txt", border=2)
    wanted = [[char == "0" for char in line] for line in out.getvalue().splitlines()]
    assert [row[: len(wanted[0])] for row in rows[: len(wanted)]] == wanted


def test_the_command_prints_the_token_and_a_code_on_a_terminal_alone(site: Path) -> None:
    """On a pseudo-terminal, as a person has it."""
    main, other = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [*RUN, "--index", str(site), "--host", "0.0.0.0", "--token", "a-long-secret"]
    said = b""
    with subprocess.Popen(words, stderr=other, stdin=subprocess.DEVNULL, env=environment) as process:
        os.close(other)
        try:
            while b"Ctrl-C ends it" not in said or said.count("▀".encode()) < 20:
                said += os.read(main, 65536)
            found = re.search(rb"http://([\d.]+):(\d+)/\?token=a-long-secret", said)
            assert found
            local = f"http://127.0.0.1:{found.group(2).decode()}"
            assert until(lambda: httpx.get(f"{local}/healthz", timeout=5).status_code == 200)
            there = f"http://{found.group(1).decode()}:{found.group(2).decode()}/"
            reply = httpx.get(there, params={"token": "a-long-secret"}, timeout=30)
            assert reply.status_code == 303
            assert httpx.get(f"{local}/api/status", timeout=30).status_code == 401
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            os.close(main)


def test_listening_on_both_protocols_and_who_needs_a_token() -> None:
    with listen("::", 0) as both:
        port = both.getsockname()[1]
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as asking:
                asking.connect((address, port))
        with pytest.raises(MmsearchError, match="take another with --port"):
            listen("127.0.0.1", port)
    assert token_of("127.0.0.1", None) is None and token_of("::1", None) is None
    assert len(token_of("0.0.0.0", None) or "") > 20 and token_of("127.0.0.1", "long-enough") == "long-enough"
    with pytest.raises(QueryError):
        token_of("127.0.0.1", "short")
    assert {"localhost", socket.gethostname().lower()} <= names("0.0.0.0", ["photos.example"])
    assert split_address("[::1]:80") == ("::1", 80) and split_address("host:0") == ("host", 0)
