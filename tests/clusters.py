"""Clusters of this machine for tests: small, seen by their processes, and with encoders that tell what they did."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import indexer.cluster
from tests.stores import PlainEncoder

FILES_A_CALL = 8


def make_small() -> None:
    """Workers with one CPU and little memory, and calls with few files, so that a small folder keeps several workers busy."""
    indexer.cluster.CPUS_A_WORKER = 1
    indexer.cluster.WORKER_MEMORY = 256 * 1024**2
    indexer.cluster.STORE_BYTES = 100 * 1024**2
    indexer.cluster.FILES_A_CALL = FILES_A_CALL


class LoggedEncoder(PlainEncoder):
    """Slow, and each picture that it encoded is a line of a file, by whichever process: its embedding, shortened."""

    def __init__(self, log: str, seconds: float = 0.05) -> None:
        super().__init__()
        self._log, self._seconds = log, seconds

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        time.sleep(self._seconds)
        rows = super().encode_pixels(pixels)
        with open(self._log, "a") as out:
            out.write("".join(row[:4].tobytes().hex() + "\n" for row in rows))
        return rows


def times_encoded(log: Path) -> Counter[str]:
    """How often each picture was encoded."""
    return Counter(log.read_text().splitlines())


class PoisonedEncoder(PlainEncoder):
    """A picture that is all red ends the process that prepares it."""

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        red, green, blue = np.asarray(image.resize((1, 1)), np.float32)[0, 0].tolist()
        if red > 240 and green < 15 and blue < 15:
            os._exit(7)
        return super().preprocess(image)


class HopelessEncoder(PlainEncoder):
    """Cannot encode anything, as where a GPU has no memory left."""

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        raise RuntimeError("no memory is left")


def workers_below(parent: int) -> list[int]:
    """The processes of workers that `parent` has started, by whichever processes between."""
    return [pid for pid, command in descendants(parent) if command.startswith("ray::NodeWorker")]


def descendants(parent: int) -> list[tuple[int, str]]:
    """Every process that `parent` has started, directly or not, and its command line."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue

    def is_below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == parent:
                return True
        return False

    return [(pid, commands[pid]) for pid in commands if is_below(pid)]


def marked(mark: str) -> list[int]:
    """Every process whose environment holds `mark`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def end_agents(mark: str) -> list[str]:
    """End what Ray leaves for a minute of a cluster that was killed, two agents that do no work; returns what else is left of
    the processes with a mark in their environment."""
    until = time.monotonic() + 30
    while True:
        left = processes(mark)
        others = [
            command for command in left.values() if command not in ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "")
        ]
        if not others or time.monotonic() > until:
            for pid in left:
                kill(pid)
            return others
        time.sleep(0.2)


def processes(mark: str) -> dict[int, str]:
    """The command lines of the processes with a mark in their environment."""
    found = {}
    for pid in marked(mark):
        with contextlib.suppress(OSError):
            found[pid] = (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def kill(pid: int) -> None:
    """End a process without a word, if it is there still."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
