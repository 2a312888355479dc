"""What touching a large index costs: `python -m benchmarks.library touch INDEX`, `… growth INDEX...` and `… files FOLDER`.

`touch` adds a folder of three photos to an index (made by `python -m benchmarks.speed rows`), runs again with nothing
changed, and again with one of them gone; `growth` does it to indexes of several sizes and draws a picture. `files` makes a
folder of many small files and an index that knows them all, and compares bringing it up to date with what `find` takes to
list them. Every figure is that of the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import command, report, spread, write_photos

_PART = 16_384


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.library", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    touch = commands.add_parser("touch", help="three photos more, nothing changed, one photo gone")
    touch.add_argument("index", type=Path)
    touch.add_argument("--rounds", type=int, default=3)
    growth = commands.add_parser("growth", help="the same for indexes of several sizes, drawn to a file")
    growth.add_argument("indexes", type=Path, nargs="+")
    growth.add_argument("--rounds", type=int, default=3)
    growth.add_argument("--output", type=Path, default=Path("growth.png"))
    files = commands.add_parser("files", help="a folder of many files, all unchanged")
    files.add_argument("folder", type=Path)
    files.add_argument("--count", type=int, default=1_000_000)
    files.add_argument("--each", type=int, default=1000, help="files in each of its folders")
    files.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    if given.what == "touch":
        report(measure_touch(given.index, given.rounds))
    elif given.what == "growth":
        measured_sizes = [measure_touch(index, given.rounds) for index in given.indexes]
        for size in measured_sizes:
            report(size)
        draw(measured_sizes, given.output)
    else:
        report(measure_files(given.folder, given.count, given.each, given.rounds))
    return 0


def measured(arguments: Sequence[str]) -> tuple[float, float, str]:
    """Seconds and megabytes (of the largest process) of a whole command, and what it printed. Raises where it fails."""
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{arguments[-1]}: exit status {process.returncode}")
        out.seek(0)
        return seconds, usage.ru_maxrss / 1000, out.read().decode()


def measure_touch(index: Path, rounds: int) -> dict[str, object]:
    """Seconds and megabytes of each step, over new folders of three photos."""
    seconds: dict[str, list[float]] = {"add": [], "unchanged": [], "one_gone": [], "status": []}
    memory: dict[str, list[float]] = {name: [] for name in seconds}
    items = 0
    with tempfile.TemporaryDirectory(prefix="mmsearch-touch-") as scratch:
        for number in range(rounds):
            photos = Path(scratch) / f"photos{number}"
            # Photos that no round before has brought: the index would copy their embeddings.
            write_photos(photos, 3, 640, 480, seed=time.time_ns())
            for name in seconds:
                if name == "one_gone":
                    next(photos.iterdir()).unlink()
                act = ["status", "--json"] if name == "status" else ["index", str(photos), "--json"]
                took, peak, printed = measured(command(*act, "--index", str(index)))
                seconds[name].append(took)
                memory[name].append(peak)
                items = json.loads(printed)["items"]
    return {
        "items": items,
        **{f"{name}_seconds": spread(values) for name, values in seconds.items()},
        **{f"{name}_megabytes": round(max(values)) for name, values in memory.items()},
    }


def draw(sizes: Sequence[dict[str, Any]], output: Path) -> None:
    """Seconds (median, least to greatest) and megabytes of each step against the number of items."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    items = [size["items"] for size in sizes]
    for name, label in (("add", "three photos more"), ("unchanged", "nothing changed"), ("one_gone", "one photo gone")):
        low, medians, high = ([size[f"{name}_seconds"][which] for size in sizes] for which in ("min", "median", "max"))
        left.plot(items, medians, marker="o", label=label)
        left.fill_between(items, low, high, alpha=0.2)
        right.plot(items, [size[f"{name}_megabytes"] for size in sizes], marker="o", label=label)
    for axes, unit in ((left, "seconds, whole command"), (right, "megabytes, largest process")):
        axes.set(xscale="log", xlabel="items in the index", ylabel=unit, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(output, dpi=90)


def measure_files(folder: Path, count: int, each: int, rounds: int) -> dict[str, object]:
    """Seconds and megabytes of an `index` run over `count` unchanged files, and of `find` over the same."""
    index = folder.with_name(folder.name + "-index")
    if not index.exists():
        _make(folder, index, count, each)
    ours: list[float] = []
    theirs: list[float] = []
    peak = 0.0
    for _ in range(rounds):
        took, used, printed = measured(command("index", str(folder), "--index", str(index), "--json"))
        if json.loads(printed)["unchanged"] != count:
            raise RuntimeError("the index does not know every file")
        ours.append(took)
        peak = max(peak, used)
        theirs.append(measured(["find", str(folder), "-type", "f", "-printf", r"%s %T@\n"])[0])
    return {
        "files": count,
        "index_seconds": spread(ours),
        "find_seconds": spread(theirs),
        "ratio": spread([our / other for our, other in zip(ours, theirs, strict=True)]),
        "index_megabytes": round(peak),
    }


def _make(folder: Path, index: Path, count: int, each: int) -> None:
    """Files of a byte each, and an index that has a row for each of them."""
    from retrieval.models.encoder import Encoder
    from retrieval.models.export import ensure_exported
    from retrieval.store.journal import UnitResult
    from retrieval.store.writer import IndexWriter
    from retrieval.types import Item

    spec = Encoder.load("mini").spec
    ensure_exported(spec.name)
    rng = np.random.default_rng(0)
    with IndexWriter(index, spec) as writer:
        writer.add_root(str(folder.absolute()))
        for start in range(0, count, _PART):
            items = []
            for number in range(start, min(count, start + _PART)):
                file = folder.absolute() / f"{number // each:06d}" / f"{number:08d}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"0")
                stat = file.stat()
                items.append(
                    Item(id=f"{number:024x}", path=str(file), source=str(file), kind="image", size=1,
                         mtime_ns=stat.st_mtime_ns, sha256=f"{number:064x}")
                )  # fmt: skip
            rows = rng.standard_normal((len(items), spec.dim), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            writer.journal(UnitResult.of_rows(items, rows, writer.manifest.roots))
            if writer.pending >= 16 * _PART:
                writer.publish()
        writer.publish(merge=True)


if __name__ == "__main__":
    sys.exit(main())
