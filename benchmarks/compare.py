"""What changed between two measurements, and whether it is more than noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import MmsearchError


@dataclass(frozen=True, kw_only=True)
class FigureChange:
    """One figure in both. `beyond` says whether the change is more than noise, None where no spread is known."""

    name: str
    before: float
    after: float
    beyond: bool | None


def read_measurements(file: Path) -> list[dict[str, object]]:
    """The objects of a file that `--json` wrote, one a line. Raises `MmsearchError`."""
    try:
        measurements = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise MmsearchError(f"{file} is not what --json writes: {error}") from error
    if not measurements or not all(isinstance(measurement, dict) for measurement in measurements):
        raise MmsearchError(f"{file} holds no measurement")
    return measurements


def compare(before: Mapping[str, object], after: Mapping[str, object]) -> list[FigureChange]:
    """Every number that both have.

    A recall has a 95 % interval, and a time its least and greatest: a change is beyond noise where those do not overlap.
    That is stricter than a test of the difference would be, and so never calls noise a change.
    """
    old, new = _numbers(before, ""), _numbers(after, "")
    changes = []
    for name, (value, spread) in old.items():
        if name in new:
            other, other_spread = new[name]
            has_spreads = spread is not None and other_spread is not None
            beyond = None
            if has_spreads and spread is not None and other_spread is not None:
                beyond = spread[0] > other_spread[1] or other_spread[0] > spread[1]
            changes.append(FigureChange(name=name, before=value, after=other, beyond=beyond))
    return changes


def _numbers(value: Mapping[str, object], path: str) -> dict[str, tuple[float, tuple[float, float] | None]]:
    out: dict[str, tuple[float, tuple[float, float] | None]] = {}
    sure = value.get("confidence_95")
    for key, entry in value.items():
        name = f"{path}{key}"
        if key == "confidence_95":
            continue
        if isinstance(entry, Mapping):
            if {"median", "min", "max"} <= set(entry):
                out[name] = (float(entry["median"]), (float(entry["min"]), float(entry["max"])))
                continue
            inner = dict(entry)
            if isinstance(sure, Mapping) and isinstance(sure.get(key), Mapping):
                inner["confidence_95"] = sure[key]
            out.update(_numbers(inner, f"{name} "))
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            spread = sure.get(key) if isinstance(sure, Mapping) else None
            out[name] = (
                float(entry),
                (float(spread[0]), float(spread[1])) if isinstance(spread, list | tuple) else None,
            )
    return out
