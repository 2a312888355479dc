"""`mmsearch ask`."""

from __future__ import annotations

import os
from typing import Annotated, Optional

import typer

from cli.options import DeviceOption, IndexOption, complete_model
from cli.terminal import busy, clock, hint, near, print_json, quiet_native_stderr


def ask_command(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="A question about what the pictures show.")],
    index: IndexOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many images may serve as evidence.")] = 3,
    min_relevance: Annotated[
        float, typer.Option(min=0, max=1, help="How likely an image must be relevant to serve as evidence.")
    ] = 0.5,
    captioner: Annotated[
        str,
        typer.Option(
            "--reader",
            metavar="NAME",
            help="The model that reads and describes; auto: the index's own, if it can.",
            autocompletion=complete_model,
        ),
    ] = "auto",
    candidates: Annotated[int, typer.Option(min=1, help="How many images are read.")] = 50,
    answerer: Annotated[
        Optional[str],
        typer.Option(
            metavar="openai:URL", help="The address of a language model's server that shall write the answer."
        ),
    ] = None,
    answerer_model: Annotated[str, typer.Option(metavar="NAME", help="The server's name for its model.")] = "default",
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a question from the pictures of an index, with the evidence."""
    from retrieval.crossmodal.answer import Answerer, Evidence, compose
    from retrieval.errors import QueryError

    if not question.strip():
        raise QueryError("the question is empty; ask something")
    writer = Answerer.of(answerer, answerer_model, os.environ.get("MMSEARCH_ANSWERER_KEY")) if answerer else None
    from retrieval.engine import Engine

    with (
        busy("reading the candidates"),
        quiet_native_stderr(),
        Engine.open(index, device=device) as engine,
    ):
        if captioner == "auto":
            captioner, notice = engine.captioner_name()
            if notice:
                hint(notice)
        described = engine.evidence(
            question, k, min_relevance=min_relevance, candidates=candidates, captioner=captioner
        )
    evidence = [
        Evidence(path=hit.item.path, start=hit.item.start, end=hit.item.end, caption=caption.text, score=hit.score)
        for hit, caption in described
    ]
    answer = writer.answer(question, evidence) if writer is not None else compose(evidence, question)
    if as_json:
        print_json({"question": question, "answer": answer, "evidence": [vars(entry) for entry in evidence]})
        return
    print(answer)
    for number, entry in enumerate(evidence, 1):
        when = f" {clock(entry.start)}–{clock(entry.end)}" if entry.start is not None and entry.end is not None else ""
        print(f"[{number}] {near(entry.path)}{when}")
