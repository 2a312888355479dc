"""Every wrong value of an option ends with 2 and one reason, before work; what fails for another reason ends with 1."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mmsearch
from benchmarks.metrics import Ranks
from benchmarks.recall_report import cells
from benchmarks.samples import PHOTOS, sentence
from cli.main import main
from retrieval.errors import QueryError, UsageError
from tests.conftest import Command, build, write_photos
from tests.films import film

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("library")
    write_photos(folder, 2)
    film(folder / "film.mp4", (5,))
    (folder / "captions.csv").write_text("path,caption\nphoto0000.jpg,a dog\n")
    build(folder, mini)
    return folder


@pytest.fixture
def run(library: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> object:
    """The command in this process; gives its exit status and what it wrote to standard error."""
    monkeypatch.chdir(library)

    def ended(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mmsearch", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capfd.readouterr().err

    return ended


RECALL = ("bench", "recall", "--images", ".", "--captions", "captions.csv", "--model", "mini")
WRONG = [
    ("search", "x", "-k", "0"),
    ("search", "x", "-k", "many"),
    ("search", "x", "--kind", "sound"),
    ("search", "x", "--device", "gpu"),
    ("search", "x", "--device", "cuda:99"),
    ("search", "x", "--fusion", "nonsense"),
    ("search", "x", "--rerank", "--fusion", "nonsense"),
    ("search", "x", "--rerank", "--reranker", "nonsense"),
    ("search", "x", "--candidates", "0"),
    ("search", "x", "--rerank-ms", "-1"),
    ("search", "x", "--min-relevance", "2"),
    ("search", "x", "--explain"),
    ("search", "x", "--clip", "film.mp4"),
    ("search", "x", "--nonsense"),
    ("search",),
    ("search", ""),
    ("search", " "),
    ("search", "a dog", "--not", "a dog", "--not", "a dog"),
    ("index",),
    ("index", ".", "--device", "gpu"),
    ("index", ".", "--precision", "int3"),
    ("index", ".", "--model", "nonsense"),
    ("index", ".", "--model", "Nonsense/tag"),
    ("index", ".", "--model", "RN50@weights.txt"),
    ("index", ".", "--model", "local-dir:nowhere"),
    ("index", ".", "--batch-size", "0"),
    ("index", ".", "--workers", "-1"),
    ("index", ".", "--fps", "0"),
    ("index", ".", "--fps", "nan"),
    ("index", ".", "--max-frames", "0"),
    ("index", ".", "--moment-fusion", "nonsense"),
    ("describe", "photo0000.jpg", "--model", "nonsense"),
    ("describe", "photo0000.jpg", "--model", "mini", "--device", "gpu"),
    ("describe", "photo0000.jpg", "--model", "mini", "--precision", "int3"),
    ("describe", "photo0000.jpg", "--method", "nonsense"),
    ("describe", "photo0000.jpg", "--model", "mini", "--beams", "0"),
    ("describe", "photo0000.jpg", "--model", "mini", "--min-length", "41"),
    ("describe", "photo0000.jpg", "--model", "mini", "--max-length", "0"),
    ("describe", "photo0000.jpg", "--model", "mini", "--seed", "-1", "--method", "nucleus"),
    ("describe", "photo0000.jpg", "--model", "mini", "--prefix", "word " * 200),
    ("describe",),
    ("summarize", "film.mp4", "--length", "0"),
    ("summarize", "film.mp4", "--fps", "0"),
    ("summarize", "film.mp4", "--model", "nonsense"),
    ("summarize", "film.mp4", "--model", "mini", "--device", "gpu"),
    ("summarize", "photo0000.jpg", "--model", "mini"),
    ("explain", "photo0000.jpg", "x", "--model", "nonsense"),
    ("explain", "photo0000.jpg", "x", "--model", "mini", "--device", "gpu"),
    ("explain", "photo0000.jpg", " ", "--model", "mini"),
    ("ask", ""),
    ("ask", "what?", "-k", "0"),
    ("ask", "what?", "--min-relevance", "2"),
    ("ask", "what?", "--candidates", "0"),
    ("ask", "what?", "--answerer", "nonsense"),
    ("ask", "what?", "--device", "gpu"),
    ("ask", "what?", "--reader", "nonsense"),
    ("serve", "--port", "99999"),
    ("serve", "--token", "short"),
    ("serve", "--token", "with a space in it"),
    ("serve", "--root", "nowhere"),
    ("serve", "--watch-poll", "0"),
    ("serve", "--device", "gpu", "--port", "0"),
    (*RECALL, "--part", "x"),
    (*RECALL, "--device", "gpu"),
    (*RECALL, "--precision", "int3"),
    (*RECALL, "--rerank", "--fusion", "nonsense"),
    (*RECALL, "--shots", "--rerank"),
    ("bench", "recall"),
    ("bench", "ann", "--rows", "1"),
    ("bench", "ann", "--rows", "100", "--apply"),
    ("bench", "ann", "--target", "2"),
    ("bench", "speed", "--rounds", "0"),
    ("bench", "speed", "--device", "gpu", "--model", "mini"),
    ("bench", "speed", "--profile", "x.svg"),
    ("status", ".", "--index", "."),
    ("models", "pull", "nonsense"),
    ("models", "pull", "Nonsense/tag"),
    ("nonsense",),
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_value_of_an_option_ends_with_2(run: object, arguments: tuple[str, ...]) -> None:
    """Some ended with 1, and some were ignored."""
    assert callable(run)
    status, errors = run(*arguments)
    assert status == 2, errors
    assert "Traceback" not in errors and "unexpected" not in errors and errors.startswith("error: ")
    assert len(errors.splitlines()) == 1, "one line, whoever found it"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("search", "--image", "gone.jpg"), "gone.jpg: No such file"),
        (("search", "x", "--index", "nowhere"), "no index at"),
        (("describe", "gone.jpg", "--model", "mini"), "1 of 1"),
        (("summarize", "gone.mp4", "--model", "mini"), "gone.mp4"),
        (("explain", "gone.jpg", "x", "--model", "mini"), "gone.jpg: No such file"),
        (("index", "nowhere"), "No such file"),
        ((*RECALL, "--html", "nowhere/x.html"), "cannot write nowhere/x.html"),
        (("bench", "speed", "--model", "mini", "--html", "nowhere/x.html"), "cannot write nowhere/x.html"),
        (("bench", "ann", "--html", "nowhere/x.html"), "cannot write nowhere/x.html"),
    ],
)
def test_a_failure_ends_with_1(run: object, arguments: tuple[str, ...], reason: str) -> None:
    assert callable(run)
    status, errors = run(*arguments)
    assert status == 1 and reason in errors.splitlines()[-1]


def test_an_empty_question_is_told_as_a_question(run: object, library: Path) -> None:
    """It spoke of images."""
    assert callable(run)
    assert run("ask", " ")[1] == "error: the question is empty; ask something\n"
    with mmsearch.open(library) as engine, pytest.raises(QueryError, match="the question is empty"):
        engine.evidence("")


def test_a_still_is_not_summarized(run: object) -> None:
    assert callable(run)
    status, errors = run("summarize", "photo0000.jpg", "--model", "mini")
    assert status == 2 and "photo0000.jpg is no video" in errors and "mmsearch describe" in errors


@pytest.mark.parametrize("command", [("bench", "speed", "--model", "mini"), RECALL, ("bench", "ann")])
def test_a_report_that_cannot_be_drawn_is_told_before_measuring(
    run: object, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """It was measured for minutes, and then matplotlib was missing; and the hint named a package that is not ours."""

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("it was measured")

    for name in ("benchmarks.stages.measure_speed", "benchmarks.recall.measure_recall", "benchmarks.ann.measure_ann"):
        monkeypatch.setattr(name, measured)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert callable(run)
    status, errors = run(*command, "--html", "report.html")
    assert status == 1 and errors.endswith("error: reports need matplotlib; install it with: pip install matplotlib\n")


def test_no_hint_names_a_package_of_an_index_that_is_not_ours() -> None:
    for folder, _, names in os.walk(Path(__file__).parents[1]):
        if any(part.startswith(".") for part in Path(folder).parts[-2:]):
            continue
        for name in names:
            if name.endswith((".py", ".md")) and name != Path(__file__).name:
                assert "mmsearch[" not in Path(folder, name).read_text("utf-8"), name


def test_python_speaks_of_values_and_not_of_options(library: Path) -> None:
    """A path given as a text was walked letter by letter."""
    assert mmsearch.index(str(library), model="mini").items == mmsearch.index([library], model="mini").items
    for arguments, reason in (
        ({"paths": 5}, "paths must hold paths, not int"),
        ({"paths": []}, "name at least one folder or file"),
        ({"paths": library, "batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"paths": library, "device": "gpu"}, "unknown device 'gpu'"),
        ({"paths": library, "precision": "int3"}, "unknown precision 'int3'"),
        ({"paths": library, "model": "nonsense"}, "unknown model 'nonsense'"),
    ):
        with pytest.raises(UsageError) as caught:
            mmsearch.index(**arguments)
        assert reason in str(caught.value) and "--" not in str(caught.value)
    with mmsearch.open(library) as engine:
        for query in (mmsearch.Query(text=""), mmsearch.Query()):
            with pytest.raises(UsageError) as caught:
                engine.search(query)
            assert "--" not in str(caught.value)
    with pytest.raises(UsageError, match="unknown device"):
        mmsearch.open(library, device="gpu")
    with pytest.raises(UsageError, match="unknown fusion"):
        mmsearch.Rerank(fusion="nonsense")


def test_one_query_has_no_interval() -> None:
    """100.0 (100.0–100.0) claimed to be sure."""
    import numpy as np

    single = Ranks(first=np.array([1]), precision=np.array([1.0]))
    assert cells(single)[:3] == ["100.0"] * 3 and single.confidence() == {}
    several = Ranks(first=np.array([1, 9]), precision=np.array([1.0, 0.1]))
    assert set(several.confidence()) == {"R@1", "R@5", "R@10"} and "–" in cells(several)[0]


def test_the_api_takes_one_negative_as_the_form_does() -> None:
    """`"not": "people"` was refused in JSON."""
    from server.models import SearchRequest

    assert SearchRequest.model_validate({"text": "x", "not": "people"}).negatives == ["people"]
    assert SearchRequest.model_validate({"text": "x", "not": ["people", "cars"]}).negatives == ["people", "cars"]


def test_the_demo_speaks_english() -> None:
    said = [sentence(caption) for caption in PHOTOS.values() if caption]
    assert (
        "Here are craters on the surface of the moon." in said and "Here is a cup of coffee on a wooden table." in said
    )
    assert not [line for line in said if line.startswith(("Here is craters", "Here is rows", "Here is galaxies"))]


def test_status_and_failures_take_a_folder_like_index(library: Path, command: Command, tmp_path: Path) -> None:
    (library / "sub").mkdir(exist_ok=True)
    for place in (library, library / "sub", library / ".mmsearch"):
        done = command("status", str(place))
        assert done.returncode == 0 and str(library / ".mmsearch") in done.stdout
    assert command("failures", str(library)).stdout == "no failures\n"
    assert command("compact", str(library)).returncode == 0
    assert command("status", str(tmp_path)).returncode == 1


def test_the_first_index_says_what_to_type_next_and_tables_name_files_from_here(
    command: Command, tmp_path: Path
) -> None:
    write_photos(tmp_path / "my photos", 2)
    (tmp_path / "my photos" / "bad.jpg").write_bytes(b"no")
    first = command("index", "my photos", "--model", "mini").stdout
    assert "mmsearch failures 'my photos'" in first
    assert "next: mmsearch search \"words for what you look for\" --index 'my photos'" in first
    again = command("index", "my photos", "--model", "mini").stdout
    assert "next:" not in again
    inside = tmp_path / "my photos"
    (inside / ".mmsearch").rename(tmp_path / "away")
    assert 'search "words for what you look for"\n' in command("index", ".", "--model", "mini", cwd=inside).stdout
    table = command("search", "a dog", cwd=inside).stdout.splitlines()
    assert {line.split()[-1] for line in table[1:]} == {"photo0000.jpg", "photo0001.jpg"}
    assert command("failures", "my photos").stdout.startswith("my photos/bad.jpg: ")


def test_relevance_is_told_in_words_and_never_as_certainty() -> None:
    from retrieval.ranking.relevance import in_words

    assert [in_words(value) for value in (1.0, 0.9, 0.8, 0.5, 0.1, 0.0, None)] == [
        "very likely", "very likely", "likely", "maybe", "unlikely", "unlikely", "",
    ]  # fmt: skip
    # An exact name was called unlikely, since its picture looks like nothing of the sort.
    assert [in_words(value, ("IMG_20",)) for value in (0.9, 0.1, None)] == ["very likely", "by words", "by words"]
