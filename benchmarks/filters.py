"""What filters, words and facets cost on an index of many rows: `python -m benchmarks.filters INDEX`.

A warm text query alone and with a filter that passes about a hundredth of the rows, in turns; facets of everything, in a
state that was just opened and again; and the cold command, by meaning alone and by words, too. The filter is made of folders
of the index, as `in:` names them.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.speed import ROOT, command, report, spread
from retrieval.engine import Engine
from retrieval.types import Filter, Query

_WORDS = "a dog runs through the snow"


def milliseconds(run: Callable[[], object], rounds: int) -> list[float]:
    """How long each of so many calls took."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1000)
    return times


def narrow_filter(engine: Engine, share: float) -> tuple[Filter, float]:
    """A filter on folders that together hold about this share of the items, and the share."""
    facets = engine.facets(Filter())
    total = sum(facets.kinds.values())
    folders, held = list[str](), 0
    for name, count in sorted(facets.folders.items(), key=lambda pair: pair[1]):
        if held + count > share * total:
            break
        folders.append(name)
        held += count
    return Filter(folders=tuple(folders)), held / total


def measure(index: Path, rounds: int, share: float) -> dict[str, object]:
    """Everything that needs no process of its own."""
    facets = []
    for _ in range(3):
        with Engine.open(index) as engine:
            facets.append([milliseconds(lambda: engine.facets(Filter()), 1)[0] for _ in range(2)])
    with Engine.open(index) as engine:
        wanted, held = narrow_filter(engine, share)
        plain = Query(text=_WORDS, k=10)
        filtered = replace(plain, filter=wanted)
        first = milliseconds(lambda: engine.search(filtered), 1)
        engine.search(plain)
        alone, narrowed = list[float](), list[float]()
        for _ in range(rounds):
            alone += milliseconds(lambda: engine.search(plain), 1)
            narrowed += milliseconds(lambda: engine.search(filtered), 1)
    return {
        "facets_ms_opened": spread([pair[0] for pair in facets]),
        "facets_ms_again": spread([pair[1] for pair in facets]),
        "folders": len(wanted.folders),
        "passes": round(held, 4),
        "first_filtered_ms": round(first[0], 2),
        "warm_ms": spread(alone),
        "warm_filtered_ms": spread(narrowed),
    }


def cold(index: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The whole command, by meaning alone and by words as well, in turns; milliseconds."""
    times: dict[str, list[float]] = {"meaning": [], "auto": []}
    for _ in range(rounds):
        for match, spent in times.items():
            run = command("search", _WORDS, "--index", str(index), "--match", match)
            spent += milliseconds(lambda: subprocess.run(run, cwd=ROOT, capture_output=True, check=True), 1)  # noqa: B023
    return {f"cold_{match}_ms": spread(spent) for match, spent in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--share", type=float, default=0.01, help="of the items, that the filter lets pass")
    given = parser.parse_args(arguments)
    report({**measure(given.index, given.rounds, given.share), **cold(given.index, 7)})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
