"""Answers with evidence: captions of the hits become a short answer that cites them.

The built-in answer says only what the captions say, and cites each as [1], [2]. A language model behind an
OpenAI-compatible server may write it instead; citations of evidence that does not exist are taken out of what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from retrieval.errors import ModelError, QueryError
from retrieval.ranking.stop_words import STOP_WORDS
from retrieval.types import Query, Rerank

NOTHING = "Nothing relevant was found."
_LEAD = re.compile(
    r"^(what|who|where|when|which|why|how( many| much)?|is|are|was|were|do|does|did|can|could|show me|find me|find|tell me)"
    r"('s|\s+(is|are|was|were|do|does|did|can|could|there|about|of|any)\b)*\s*",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"(is|are|was|were|do|does|did|can|could|has|have|had)\b", re.IGNORECASE)
_NEGATED = re.compile(r"\b(no|not|never|without|nobody|nothing)\b|n't\b", re.IGNORECASE)
_LARGEST_REPLY = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """An image or moment that was found: what it shows, where it is (`start` and `end` in seconds of a video), and its
    score."""

    path: str
    start: float | None
    end: float | None
    caption: str
    score: float


def search_words(question: str) -> str:
    """The question without its question words: encoders are trained on captions, not on questions."""
    words = _LEAD.sub("", question.strip().rstrip("?!. ")).strip()
    return words or question.strip()


def evidence_query(question: str, k: int, min_relevance: float, how: Rerank) -> Query:
    """The search for evidence on a question: single moments rather than whole videos, each relevant enough. Raises `QueryError`
    for a question without words."""
    if not question.strip():
        raise QueryError("the question is empty; ask something")
    return Query(text=search_words(question), k=k, group=False, min_relevance=min_relevance, rerank=how)


def compose(evidence: Sequence[Evidence], question: str = "") -> str:
    """The captions as sentences, equal ones together, in the order of the evidence, each with its citations. A question that
    wants a yes or no begins with Yes where a caption has all that it asks for, else with Perhaps: what was found is near."""
    if not evidence:
        return NOTHING
    cited: dict[str, list[int]] = {}
    for number, entry in enumerate(evidence, 1):
        cited.setdefault(entry.caption.strip().rstrip(". "), []).append(number)
    parts = [f"{text[:1].upper()}{text[1:]} {''.join(f'[{n}]' for n in numbers)}." for text, numbers in cited.items()]
    return _verdict(evidence, question) + " ".join(parts)


def _verdict(evidence: Sequence[Evidence], question: str) -> str:
    asked = {word for word in _words(search_words(question)) if word not in STOP_WORDS}
    if not _YES_OR_NO.match(question.strip()) or _NEGATED.search(question) or not asked:
        return ""
    return "Yes: " if any(asked <= _words(entry.caption) for entry in evidence) else "Perhaps: "


def _words(text: str) -> set[str]:
    """The words of a text, without what makes a plural."""
    return {word.rstrip("s") if len(word) > 3 else word for word in re.findall(r"\w+", text.casefold())}


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A language model at `url`, the base address of an OpenAI-compatible API such as `http://127.0.0.1:8080/v1`.

    `of` raises `QueryError` for a name that is not `openai:` and an http or https address.
    """

    url: str
    model: str = "default"
    key: str | None = None
    timeout: float = 120.0

    @staticmethod
    def of(name: str, model: str, key: str | None) -> Answerer:
        """From the form `openai:URL`."""
        kind, _, url = name.partition(":")
        if kind != "openai" or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise QueryError(f"unknown answerer {name!r}; use openai:URL, as in openai:http://127.0.0.1:8080/v1")
        return Answerer(url=url.rstrip("/"), model=model, key=key)

    def answer(self, question: str, evidence: Sequence[Evidence]) -> str:
        """The server's answer to `question`; `NOTHING` without asking it when there is no evidence.

        Raises `ModelError` in one line when the server cannot be reached or does not answer as it should.
        """
        if not evidence:
            return NOTHING
        listed = "\n".join(f"[{number}] {entry.caption}" for number, entry in enumerate(evidence, 1))
        messages = [
            {
                "role": "system",
                "content": "Answer the question in one or two sentences from the numbered descriptions of pictures alone. "
                "Cite each description that you use by its number, as in [1]. If they do not hold the answer, say so.",
            },
            {"role": "user", "content": f"Descriptions:\n{listed}\n\nQuestion: {question}"},
        ]
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = {"model": self.model, "messages": messages, "temperature": 0}
        try:
            with (
                httpx.Client(timeout=self.timeout) as web,
                web.stream("POST", f"{self.url}/chat/completions", json=body, headers=headers) as reply,
            ):
                reply.raise_for_status()
                text = json.loads(_bounded(reply))["choices"][0]["message"]["content"]
        except httpx.HTTPStatusError as error:
            refused = error.response
            raise ModelError(
                f"the answerer at {self.url} refused: {refused.status_code} {refused.reason_phrase}"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(f"the answerer at {self.url} gave no answer: {error or type(error).__name__}") from error
        if not isinstance(text, str) or not text.strip():
            raise ModelError(f"the answerer at {self.url} gave an empty answer")
        return _valid_citations(" ".join(text.split()), len(evidence))


def _bounded(reply: httpx.Response) -> bytes:
    """The body of a reply. Raises `ValueError` for one that is too long."""
    body = b""
    for part in reply.iter_bytes():
        body += part
        if len(body) > _LARGEST_REPLY:
            raise ValueError(f"more than {_LARGEST_REPLY} bytes")
    return body


def _valid_citations(text: str, count: int) -> str:
    def keep(match: re.Match[str]) -> str:
        return match.group(0) if 1 <= int(match.group(1)) <= count else ""

    return re.sub(r"\[(\d{1,6})\]", keep, text)
