"""Where a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a build is: files done of the `total` that are known to have changed, and the file that came last. The total
    grows while the folders are still being listed. At the stage `ocr`, when all else is published, they are images that are
    looked at for their text. `nodes` are the machines of a cluster that work, 0 where there is none."""

    done: int
    total: int
    failed: int
    path: str
    nodes: int = 0
    stage: Literal["encode", "ocr"] = "encode"
