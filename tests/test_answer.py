"""Relevance and answers: what a score means, what is said when nothing was found, and a server that writes the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import mmsearch
from retrieval.crossmodal.answer import NOTHING, Answerer, Evidence, compose, search_words
from retrieval.errors import ModelError, QueryError
from retrieval.ranking.relevance import LEAST, fit_calibration, from_sample, from_sigmoid
from retrieval.types import Query, Rerank
from tests.conftest import Command, write_photos


def test_the_calibration_of_two_bells_is_the_one_that_can_be_computed() -> None:
    """Equal normal distributions around m₁ and m₀ have the log-odds (m₁ − m₀)/σ² · (x − (m₁ + m₀)/2)."""
    rng = np.random.default_rng(0)
    true, false = rng.normal(0.30, 0.05, 40_000), rng.normal(0.20, 0.05, 60_000)
    fitted = fit_calibration(true.astype(np.float32), false.astype(np.float32))
    assert fitted.slope == pytest.approx(40, rel=0.05)
    assert fitted.intercept == pytest.approx(-10, rel=0.05)
    assert fitted.relevance(0.25) == pytest.approx(0.5, abs=0.02)
    assert fitted.relevance(0.3) > 0.8 > 0.2 > fitted.relevance(0.2)


def test_a_calibration_is_finite_where_the_kinds_do_not_overlap() -> None:
    fitted = fit_calibration(np.array([0.9, 0.8], np.float32), np.array([0.1, 0.2], np.float32))
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert fitted.relevance(1e9) == pytest.approx(1)
    assert fitted.relevance(-1e9) == pytest.approx(0)


def test_a_collection_measures_a_model_of_which_nothing_is_known() -> None:
    scores = np.random.default_rng(1).normal(0.2, 0.03, 2000).astype(np.float32)
    measured = from_sample(scores, 2000)
    assert measured is not None
    # Of 2,000 normal scores a tenth of one is further out than 3.89 deviations.
    assert measured.relevance(0.2 + 3.89 * 0.03) == pytest.approx(0.5, abs=0.1)
    assert measured.relevance(0.2 + 5.5 * 0.03) > 0.95
    assert from_sample(scores[: LEAST - 1], 2000) is None
    assert from_sample(np.full(50, 0.3, np.float32), 50) is not None


@pytest.mark.parametrize("count", [200, 2000, 200_000])
def test_where_nothing_is_there_the_best_of_so_many_is_no_likely_hit(count: int) -> None:
    """The first of a thousand random scores was very likely what was asked for."""
    rng = np.random.default_rng(2)
    likely = 0
    for _ in range(200):
        scores = rng.normal(0.2, 0.03, count).astype(np.float32)
        measured = from_sample(scores[:2000], count)
        assert measured is not None
        likely += bool(measured.relevance(float(scores.max())) >= 0.7)
    assert likely <= 20


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is the dog doing?", "the dog doing"),
        ("Where are the children", "the children"),
        ("is there a red kite?", "a red kite"),
        ("show me people at night", "people at night"),
        ("a dog in the snow", "a dog in the snow"),
        ("what's on the table?", "on the table"),
        ("What?", "What?"),
    ],
)
def test_questions_become_words_to_look_for(question: str, words: str) -> None:
    assert search_words(question) == words


def evidence(*captions: str) -> list[Evidence]:
    return [
        Evidence(path=f"/p/{n}.jpg", start=None, end=None, caption=text, score=0.3) for n, text in enumerate(captions)
    ]


def test_an_answer_says_what_the_captions_say_and_cites_them() -> None:
    found = evidence("a dog runs on grass.", "two men talk", "a dog runs on grass")
    assert compose(found) == "A dog runs on grass [1][3]. Two men talk [2]."
    assert compose([]) == NOTHING


@pytest.mark.parametrize(
    ("question", "verdict"),
    [
        ("is there a dog?", "Yes: "),
        ("Are there dogs on the grass?", "Yes: "),
        ("is there a brown dog?", "Perhaps: "),
        ("is there no dog?", ""),
        ("where is the dog?", ""),
        ("a dog", ""),
    ],
)
def test_a_question_that_wants_a_yes_gets_one(question: str, verdict: str) -> None:
    found = [
        Evidence(path=f"{n}.jpg", start=None, end=None, caption=caption, score=0.9)
        for n, caption in enumerate(("a dog runs on grass.", "two men talk."))
    ]
    assert compose(found, question) == f"{verdict}A dog runs on grass [1]. Two men talk [2]."


class _Server(BaseHTTPRequestHandler):
    """A real server of the test's own: answers as its class says, and keeps what it was asked."""

    reply: ClassVar[tuple[int, bytes]] = (200, b"")
    asked: ClassVar[list[tuple[str, str | None, dict[str, object]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        status, data = self.reply
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Tests have nothing to say."""


def says(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Server]]]:
    class Handler(_Server):
        asked: ClassVar[list[tuple[str, str | None, dict[str, object]]]] = []

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"openai:http://127.0.0.1:{running.server_port}/v1", Handler
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_server_writes_the_answer_from_the_evidence(server: tuple[str, type[_Server]]) -> None:
    name, handler = server
    handler.reply = (200, says("The dog\nruns [1], and flies [7]."))
    writer = Answerer.of(name, "tiny", "secret")
    assert writer.answer("what does the dog do?", evidence("a dog runs", "a cat")) == "The dog runs [1], and flies ."
    path, key, body = handler.asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "tiny")
    said = json.dumps(body["messages"])
    assert "[1] a dog runs" in said and "[2] a cat" in said and "what does the dog do?" in said
    assert writer.answer("anything?", []) == NOTHING
    assert len(handler.asked) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [((500, b"oops"), "refused: 500"), ((200, b"no json"), "gave no answer"), ((200, b"{}"), "gave no answer"),
     ((200, b'{"choices": []}'), "gave no answer"), ((200, says("  ")), "an empty answer")],
)  # fmt: skip
def test_a_server_that_does_not_answer_is_one_line(
    server: tuple[str, type[_Server]], reply: tuple[int, bytes], reason: str
) -> None:
    name, handler = server
    handler.reply = reply
    with pytest.raises(ModelError, match=reason) as caught:
        Answerer.of(name, "tiny", None).answer("x?", evidence("a dog"))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ModelError, match="gave no answer"):
        Answerer.of("openai:http://127.0.0.1:9/v1", "x", None).answer("x?", evidence("a dog"))
    for name in ("llama", "openai:", "openai:file:///etc/passwd", "ollama:http://127.0.0.1"):
        with pytest.raises(QueryError, match="use openai:URL"):
            Answerer.of(name, "x", None)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_photos(folder, 20, start=40)
    mmsearch.index([folder], model="mini", device="cpu", precision="fp32")
    return folder


def test_relevance_cuts_what_is_below_it(media: Path) -> None:
    with mmsearch.open(media, device="cpu") as engine:
        hits = engine.search(Query(text="a dog in the snow", k=20))
        levels = [hit.relevance for hit in hits]
        assert all(level is not None and 0 <= level <= 1 for level in levels)
        assert levels == sorted(levels, reverse=True)  # type: ignore[type-var]
        middle = float(levels[9] or 0)
        kept = engine.search(Query(text="a dog in the snow", k=20, min_relevance=middle))
        assert [hit.item.id for hit in kept] == [hit.item.id for hit in hits if (hit.relevance or 0) >= middle]
        again = engine.search(Query(text="a dog in the snow", k=20, rerank=Rerank(), min_relevance=0.0))
        assert all(hit.relevance is not None for hit in again)
        assert engine.search(Query(text="a dog in the snow", min_relevance=1.0)) == []
        photo = mmsearch.open_image(media / "photo0041.jpg")
        with pytest.raises(QueryError, match="too small"):
            engine.search(Query(images=(photo,), min_relevance=0.5))


def test_ask_answers_with_evidence_or_says_that_there_is_none(
    media: Path, command: Command, server: tuple[str, type[_Server]]
) -> None:
    done = command("ask", "what is the dog doing?", "--index", str(media), "--min-relevance", "0", "-k", "2", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert list(value) == ["question", "answer", "evidence"]
    assert [list(one) for one in value["evidence"]] == [["path", "start", "end", "caption", "score"]] * 2
    assert "[1]" in value["answer"] and "[2]" in value["answer"]
    name, handler = server
    handler.reply = (200, says("It sleeps [1]."))
    text = command("ask", "a dog?", "--index", str(media), "--min-relevance", "0", "-k", "1", "--answerer", name)
    assert text.stdout.splitlines()[0] == "It sleeps [1]."
    assert text.stdout.splitlines()[1].startswith("[1] /")
    none = command("ask", "what is the dog doing?", "--index", str(media), "--min-relevance", "1", "--answerer", name)
    assert none.stdout.strip() == NOTHING
    assert len(handler.asked) == 1


def test_a_sigmoid_trained_model_says_how_probable_a_pair_is_and_among_fewer_more_so() -> None:
    scale, bias = 112.7, -16.5
    # Among as many as it was trained among, and among more, the model's own probability.
    for count in (32_768, 1_000_000):
        own = from_sigmoid(scale, bias, count)
        assert float(own.relevance(0.14)) == pytest.approx(1 / (1 + np.exp(-(scale * 0.14 + bias))))
    # Odds grow as the number of items shrinks: a hundred times the odds among a hundredth as many.
    odds = [
        value / (1 - value) for value in (float(from_sigmoid(scale, bias, n).relevance(0.12)) for n in (20_000, 200))
    ]
    assert odds[1] / odds[0] == pytest.approx(100, rel=1e-6)
    assert from_sigmoid(scale, bias, 0) == from_sigmoid(scale, bias, 1)
