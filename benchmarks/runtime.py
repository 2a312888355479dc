"""What a person waits for, beside a bare `import torch` in the same minute: cold queries, looking at an unchanged folder,
adding a photo, a server's first answer, and the memory of each. `python -m benchmarks.runtime WORK --photos FOLDER`

Each step is the real command in a process of its own, in turn with the import, after one unmeasured round that exports the
model's towers. Ratios are of the same round. Memory is the largest resident set of the process, without its children.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.sides import Run, Side, run, spread_of
from benchmarks.speed import ROOT, report

_WORDS = "a dog runs through the snow"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line of JSON for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEG files; it is copied")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    work = given.work.resolve()
    photos = work / "photos"
    if not photos.is_dir():
        shutil.copytree(given.photos, photos)
    side = Side("now", ROOT, work, None)
    runs: dict[str, list[Run]] = {}
    for turn in range(given.rounds + 1):
        for name, act in steps(side, photos, given.model):
            taken = act()
            if turn:
                runs.setdefault(name, []).append(taken)
    imports = [single.seconds for single in runs["import torch"]]
    for name, taken_runs in runs.items():
        seconds = [single.seconds for single in taken_runs]
        report(
            {
                "what": name,
                "seconds": spread_of(seconds, 2),
                "of_import_torch": spread_of([one / other for one, other in zip(seconds, imports, strict=True)], 2),
                "peak_mb": spread_of([single.peak_bytes / 1e6 for single in taken_runs], 0),
            }
        )
    return 0


def steps(side: Side, photos: Path, model: str) -> list[tuple[str, Callable[[], Run]]]:
    """The steps in the order in which each finds what it needs."""
    index = side.work / "index.mmsearch"
    fresh = photos / "added.jpg"
    first = min(file for file in photos.iterdir() if file != fresh)

    def afresh() -> Run:
        shutil.rmtree(index, ignore_errors=True)
        fresh.unlink(missing_ok=True)
        return of_index()

    def of_index() -> Run:
        return run(side, ["index", str(photos), "--model", model, "--index", str(index)])

    def add_one() -> Run:
        # Other bytes than any file has, for equal files are copies.
        fresh.write_bytes(first.read_bytes() + os.urandom(16))
        return of_index()

    return [
        ("import torch", lambda: run(side, ["-c", "import torch"], program=())),
        ("index afresh", afresh),
        ("index, nothing changed", of_index),
        ("index, one photo added", add_one),
        ("search by words", lambda: run(side, ["search", _WORDS, "--index", str(index)])),
        ("search by an image", lambda: run(side, ["search", "--image", str(first), "--index", str(index)])),
        ("serve, its first answer", lambda: first_answer(side, index)),
    ]


def first_answer(side: Side, index: Path) -> Run:
    """Seconds from starting `mmsearch serve` to its first hits for words. Raises `RuntimeError` when it does not start."""
    environment = {**os.environ, "PYTHONPATH": str(side.checkout), "MMSEARCH_CACHE": str(side.work / "cache")}
    began = time.perf_counter()
    command = [sys.executable, "-P", "-m", "mmsearch", "serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if "http://" in line), None)
            if line is None:
                raise RuntimeError("the server did not start")
            address = line[line.index("http://") :].split()[0].rstrip("/.,")
            asked = urllib.request.Request(
                f"{address}/api/search", json.dumps({"text": _WORDS}).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=120) as answer:
                output = answer.read().decode()
            seconds = time.perf_counter() - began
            memory = Path(f"/proc/{server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        finally:
            server.terminate()
    return Run(seconds, int(memory) * 1024, output)


if __name__ == "__main__":
    raise SystemExit(main())
