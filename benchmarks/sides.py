"""Two checkouts of this program side by side: wall time, peak memory and recall of the same commands, run in turn.

    python -m benchmarks.sides OLD NEW WORK --photos FOLDER --parquet flickr8k-dev.parquet --index OLD_INDEX NEW_INDEX

Each command is a process of its own, started in the work folder with the checkout on PYTHONPATH and a cache of its own. The
order alternates, so that a slow minute of the machine falls on both. Peak memory is that of the process alone (its largest
resident set), without its children.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_WORDS = "a dog runs through the snow"


@dataclass(frozen=True)
class Side:
    """One checkout: its folder, the folder that its commands may write to, and an index of many rows or None."""

    name: str
    checkout: Path
    work: Path
    index: Path | None


@dataclass(frozen=True)
class Run:
    """One process: seconds, peak memory in bytes, and what it wrote to standard output."""

    seconds: float
    peak_bytes: int
    output: str


def run(side: Side, arguments: Sequence[str], program: Sequence[str] = ("-m", "mmsearch")) -> Run:
    """`python -m mmsearch` of a checkout, or another `program` for Python. Raises `RuntimeError` when it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(side.checkout),
        "MMSEARCH_CACHE": str(side.work / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    output, errors = side.work / "output", side.work / "errors"
    with output.open("wb") as out, errors.open("wb") as err:
        began = time.perf_counter()
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", *program, *arguments],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, out.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, err.fileno(), 2),
            ],
        )
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{side.name}: {' '.join(arguments)}: {errors.read_text()}")
    return Run(seconds, usage.ru_maxrss * 1024, output.read_text())


def acts(photos: Path) -> Iterator[tuple[str, Callable[[Side], Run]]]:
    """What is timed, in an order in which each finds what it needs: its name, and the act itself."""

    def afresh(side: Side) -> Run:
        shutil.rmtree(side.work / "photos.index", ignore_errors=True)
        return run(side, ["index", str(photos), "--model", "mini", "--index", str(side.work / "photos.index")])

    def of_photos(side: Side, *arguments: str) -> Run:
        return run(side, [*arguments, "--index", str(side.work / "photos.index")])

    def of_many(side: Side) -> Run:
        return run(side, ["search", _WORDS, "--index", str(side.index)])

    yield "index afresh", afresh
    yield "index, nothing changed", lambda side: of_photos(side, "index", str(photos))
    yield "search by words", lambda side: of_photos(side, "search", _WORDS)
    yield "search by an image", lambda side: of_photos(side, "search", "--image", str(_first_image(photos)))
    yield "search, re-ranked", lambda side: of_photos(side, "search", _WORDS, "--rerank")
    yield "describe 32 images", lambda side: run(side, ["describe", *_images(photos)[:32], "--model", "mini"])
    yield "search by words, many rows", of_many


def _images(photos: Path) -> list[str]:
    return sorted(str(file) for file in photos.rglob("*.jpg"))


def _first_image(photos: Path) -> str:
    return _images(photos)[0]


def timed(name: str, act: Callable[[Side], Run], sides: Sequence[Side], rounds: int) -> dict[str, object]:
    """An act of every checkout in turn, once unmeasured first; medians with the least and the greatest."""
    for side in sides:
        act(side)
    runs: dict[str, list[Run]] = {side.name: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            runs[side.name].append(act(side))
    return {
        "what": name,
        **{
            side: {
                "seconds": spread_of([single.seconds for single in taken], 2),
                "peak_mb": spread_of([single.peak_bytes / 1e6 for single in taken], 0),
            }
            for side, taken in runs.items()
        },
    }


def recall(sides: Sequence[Side], parquet: Path, extra: Sequence[str]) -> dict[str, object]:
    """What `bench recall` of every checkout says; recall is the same on every run."""
    values: dict[str, object] = {"what": " ".join(["recall", *extra])}
    for side in sides:
        output = run(side, ["bench", "recall", "--parquet", str(parquet), "--json", *extra]).output
        values[side.name] = [json.loads(line) for line in output.splitlines()]
    return values


def spread_of(values: Sequence[float], digits: int) -> list[float]:
    """Median, least and greatest, rounded."""
    return [round(value, digits) for value in (statistics.median(values), min(values), max(values))]


def main() -> None:
    """Print one line of JSON for each act."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEG files without an index")
    parser.add_argument("--parquet", type=Path, help="a captioned data set, for recall")
    parser.add_argument("--index", type=Path, nargs=2, help="an index of many rows for each checkout")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    many = given.index or (None, None)
    sides = [
        Side("old", given.old.resolve(), given.work.resolve() / "old", many[0] and many[0].resolve()),
        Side("new", given.new.resolve(), given.work.resolve() / "new", many[1] and many[1].resolve()),
    ]
    for side in sides:
        side.work.mkdir(parents=True, exist_ok=True)
    for name, act in acts(given.photos.resolve()):
        if given.index or not name.endswith("many rows"):
            print(json.dumps(timed(name, act, sides, given.rounds)), flush=True)
    if given.parquet:
        for extra in ([], ["--rerank"], ["--through-index"]):
            print(json.dumps(recall(sides, given.parquet.resolve(), ["--model", "mini", *extra])), flush=True)


if __name__ == "__main__":
    main()
