"""The real command, as its users meet it: output, exit status, and one line for every failure."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.samples import copy_samples
from tests.conftest import ROOT, Command, picture, write_photos

HIT_KEYS = (
    "rank score first_stage_score rerank_score id kind path start end text width height"
    " relevance taken_at camera latitude longitude place matched matched_words copies moments"
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    """The photos of `make demo`, indexed by the real command."""
    folder = tmp_path_factory.mktemp("samples")
    assert copy_samples(folder) >= 15
    done = subprocess.run(
        [sys.executable, "-m", "mmsearch", "index", str(folder), "--model", "mini", "--json"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert " ".join(report) == "indexed unchanged removed failed skipped items seconds images_per_second index model"
    assert report["failed"] == 0
    assert report["model"] == "mini"
    assert report["index"] == str(folder / ".mmsearch")
    return folder


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    return lines[-1]


def test_the_three_searches(samples: Path, command: Command) -> None:
    text = command("search", "a cat", "--index", str(samples), "-k", "3", "--json")
    hits = [json.loads(line) for line in text.stdout.splitlines()]
    assert [" ".join(hit) for hit in hits] == [HIT_KEYS] * 3
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    image = command("search", "--image", str(samples / "coffee.png"), "-k", "1", "--json", cwd=samples)
    assert json.loads(image.stdout)["path"] == str(samples / "coffee.png")
    captions = command("search", "--image", str(samples / "coffee.png"), "--kind", "text", "--json", cwd=samples)
    assert {json.loads(line)["kind"] for line in captions.stdout.splitlines()} == {"text"}
    assert text.stderr == image.stderr == captions.stderr == ""


def test_a_text_query_needs_neither_torch_nor_open_clip(samples: Path) -> None:
    code = (
        "import sys\nfrom cli.main import main\n"
        f"sys.argv = ['mmsearch', 'search', 'a cat', '--index', {str(samples)!r}, '--json']\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'open_clip', 'transformers', 'PIL'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip() == "[]"


def test_a_table_for_people_and_a_contact_sheet(samples: Path, command: Command, tmp_path: Path) -> None:
    done = command("search", "a cat", "--index", str(samples), "-k", "4")
    assert done.returncode == 0
    assert len(done.stdout.strip().splitlines()) == 5
    assert "\x1b" not in done.stdout
    sheet = tmp_path / "sheet.html"
    command("search", "<b>cat</b>", "--index", str(samples), "-k", "4", "--html", str(sheet))
    page = sheet.read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 4
    assert "<b>" not in page
    assert "http" not in page
    assert "cannot write" in one_line(
        command("search", "cat", "--index", str(samples), "--html", str(tmp_path / "no" / "x.html"))
    )


def test_a_sheet_explains_its_pictures(samples: Path, command: Command, tmp_path: Path) -> None:
    sheet = tmp_path / "why.html"
    done = command("search", "a cat & a dog", "--index", str(samples), "-k", "2", "--html", str(sheet), "--explain")
    assert done.returncode == 0, done.stderr
    page = sheet.read_text("utf-8")
    assert page.count("<summary>why</summary>") == 2
    assert page.count("data:image/jpeg;base64,") == 4
    assert "a cat &amp; a dog" in page
    assert command("search", "a cat", "--index", str(samples), "--explain").returncode == 2


def test_status_failures_models_and_doctor(samples: Path, command: Command) -> None:
    status = json.loads(command("status", "--index", str(samples), "--json").stdout)
    assert " ".join(status) == (
        "items images videos moments texts failures model dim metric shards bytes vector_index format_version"
    )
    assert status["items"] == status["images"] + status["texts"]
    assert "items" in command("status", "--index", str(samples)).stdout
    assert command("failures", "--index", str(samples), "--json").stdout == ""
    models = [json.loads(line) for line in command("models", "--json").stdout.splitlines()]
    assert [list(model) for model in models] == [
        ["name", "role", "parameters", "license", "cached", "dim", "notes", "languages", "recall", "cost"]
    ] * len(models)
    assert next(model for model in models if model["name"] == "mini")["cached"]
    table = command("models").stdout
    assert all(f"\n{model['name']} " in table for model in models)
    assert "47 %" in table and "about 100" in table and "1.5 GB" in table
    assert json.loads(command("doctor", "--json").stdout)["problems"] == []
    assert "items" in command("status", cwd=samples).stdout
    assert command("status", env={"MMSEARCH_INDEX": str(samples)}).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["index", "no-such-folder"], "No such file"),
        (["index", "empty"], "nothing to index"),
        (["index", "bad"], "could be indexed"),
        (["search", "x"], "no index in"),
        (["search", "x", "--index", "elsewhere"], "no index at"),
        (["status"], "no index in"),
        (["failures", "--index", "empty"], "no index at"),
        (["compact"], "no index in"),
        (["models", "pull", "mini"], "part of the package"),
        (["models", "pull", "ViT-B-32-SigLIP2-256/webli"], "cannot reach"),
    ],
)
def test_user_errors_are_one_line(command: Command, tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no")
    assert reason in one_line(command(*arguments))


def test_query_errors_are_one_line(samples: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no image")
    for arguments, reason in (
        (["--image", "no.jpg"], "not an image"),
        (["--image", "missing.jpg"], "No such file"),
    ):
        assert reason in one_line(command("search", *arguments, "--index", str(samples)))
    for arguments in (["--kind", "sound"], ["-k", "0"], ["--candidates", "0"], ["--min-relevance", "2"]):
        assert command("search", "x", *arguments, "--index", str(samples)).returncode == 2
    assert command("search", "x", "--nonsense").returncode == 2
    assert command("index").returncode == 2


def test_debug_shows_the_traceback(command: Command) -> None:
    done = command("--debug", "status")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_auto_offline_tells_which_model_it_took(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "m", 2)
    done = command("index", "m", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["model"] == "mini"
    assert "mmsearch models pull ViT-B-32-SigLIP2-256/webli" in done.stderr
    again = command("index", "m")
    assert again.returncode == 0
    assert "2 unchanged" in again.stdout
    assert "models pull" not in again.stderr


def test_a_folder_with_bad_files_names_them_and_goes_on(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "m", 2)
    (tmp_path / "m" / "cut.jpg").write_bytes((tmp_path / "m" / "photo0000.jpg").read_bytes()[:300])
    with open(os.fsencode(tmp_path / "m") + b"/bad\xff\n.png", "wb") as out:
        out.write(b"nothing")
    (tmp_path / "m" / "strange.txt").write_bytes("naïve café".encode("utf-16"))
    picture(3).save(tmp_path / "m" / "ok.tif", compression="tiff_lzw")
    done = command("index", "m", "--model", "mini", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["failed"] == 2
    lines = [json.loads(line) for line in command("failures", "--json", "--index", "m").stdout.splitlines()]
    assert [list(line) for line in lines] == [["path", "path_raw", "stage", "reason"], ["path", "stage", "reason"]]
    assert lines[0]["path"].endswith("/bad\ufffd\n.png")
    assert base64.b64decode(lines[0]["path_raw"]).endswith(b"/bad\xff\n.png")
    shown = command("failures", "--index", "m").stdout.splitlines()
    assert len(shown) == 2


def test_ctrl_c_keeps_what_was_done(tmp_path: Path, mini: object) -> None:
    write_photos(tmp_path / "m", 2000)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmsearch", "index", str(tmp_path / "m"), "--model", "mini", "--batch-size", "4"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        # A job in the background of a script is born deaf to Ctrl-C, and so would be its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    journal = tmp_path / "m" / ".mmsearch" / "journal"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.is_dir() and len(list(journal.glob("*.parquet"))) >= 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("error: interrupted; what was done is kept")
    from retrieval.store.writer import IndexWriter

    # A part whose file was just there when the signal came may wait in the journal for the next run; it is kept too.
    with IndexWriter(tmp_path / "m" / ".mmsearch") as writer:
        assert 12 <= writer.manifest.alive("image") + writer.pending < 2000


def test_a_terminal_that_draws_shows_the_first_images(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were once drawn only where every hit was a text."""
    import io

    from cli.search import _previews
    from retrieval.types import Hit, Item

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def hit(kind: str) -> Hit:
        item = Item(id="i", path=str(samples / "coffee.png"), source=str(samples / "coffee.png"), kind=kind)  # type: ignore[arg-type]
        return Hit(rank=1, score=0.5, first_stage_score=0.5, rerank_score=None, item=item)

    monkeypatch.setenv("TERM", "xterm-kitty")
    for hits, drawn in (([hit("image"), hit("text"), hit("image")], 2), ([hit("text")], 0), ([], 0)):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        _previews(hits)
        assert out.getvalue().count("\x1b_Ga=T,f=100") == drawn


def test_a_gpu_that_is_not_here_is_one_line(samples: Path, command: Command) -> None:
    """`search --device cuda` was ignored."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    for device, reason in (("cuda", "this machine has 0 CUDA GPUs"), ("gpu", "unknown device")):
        done = command("search", "x", "--device", device, "--index", str(samples), env=hidden)
        assert done.returncode == 2 and reason in done.stderr and len(done.stderr.splitlines()) == 1
