"""Which model, runtime and precision each part of a search uses here, and why; nothing is loaded or fetched to find out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import ModelError
from retrieval.models.weights import ModelFiles, default_here, resolve, weights_sha256

_LATER = "its towers are not exported yet: the next `mmsearch index` on a CPU does that"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part of a search runs: `runtime` is the library, `precision` what it computes in, `why` a sentence."""

    part: str
    model: str
    runtime: str
    precision: str
    why: str

    def to_json(self) -> dict[str, str]:
        """The object that `doctor --json` shows."""
        return {key: value for key, value in asdict(self).items() if key != "part"}


def parts_of(name: str | None) -> list[Part]:
    """The parts of searches in an index of the model `name`; of a new index where it is None."""
    from retrieval.crossmodal.decoder_models import reading_model

    try:
        files = resolve(name or default_here())
        pictures = _pictures(files)
        return [
            Part(part="text queries", model=files.name, **(_words(files) or pictures)),
            Part(part="image queries", model=files.name, **pictures),
            Part(part="indexing", model=files.name, **pictures),
            _captions(files.name, reading_model(files.name, offline=True)[0]),
        ]
    except ModelError as error:
        shown = name or "auto"
        return [
            Part(part=part, model=shown, runtime="none", precision="", why=str(error))
            for part in ("text queries", "image queries", "indexing", "captions")
        ]


def _words(files: ModelFiles) -> dict[str, str] | None:
    from retrieval.models.text_tower import tower_folder

    stored = _read(tower_folder(files.name, files.architecture, weights_sha256(files.weights)) / "tower.json")
    if stored is None:
        return None
    agrees = f"cosine {stored['cosine']:.4f} with the original on sentences"
    why = (
        f"the smallest form that keeps its embeddings: {agrees}"
        if stored["precision"] == "int8"
        else f"8-bit weights would change its embeddings; {agrees}"
    )
    return {"runtime": "ONNX Runtime on cpu", "precision": stored["precision"], "why": why}


def _pictures(files: ModelFiles) -> dict[str, str]:
    from retrieval.models.processor import cpu_has_bf16, may_have_cuda
    from retrieval.models.towers import Towers, towers_folder

    digest = weights_sha256(files.weights)
    folder = towers_folder(files.name, files.architecture, digest)
    torch = {"runtime": "torch on cpu", "precision": "bf16 where it keeps embeddings" if cpu_has_bf16() else "fp32"}
    if may_have_cuda():
        why = "an NVIDIA driver is here; --device cpu uses the CPU"
        return {"runtime": "torch on cuda", "precision": "bf16 or fp16", "why": why}
    if (folder / "refused.txt").is_file():
        return {**torch, "why": (folder / "refused.txt").read_text("utf-8")}
    towers = Towers.find(files.name, files.architecture, digest, "cpu", "auto")
    stored = _read(folder / "towers.json")
    if towers is None or stored is None:
        return {**torch, "why": _LATER}
    agrees = f"cosine {stored['cosine']:.4f} with the original on photos"
    if towers.precision == "bf16":
        why = f"this processor multiplies bfloat16, and embeddings keep: {agrees}"
    elif cpu_has_bf16():
        why = f"bfloat16 would change its embeddings; {agrees}"
    else:
        why = f"this processor does not multiply bfloat16; {agrees}"
    return {"runtime": "OpenVINO on cpu", "precision": towers.precision, "why": why}


def _captions(of_index: str, reader: str) -> Part:
    from retrieval.models.processor import cpu_has_bf16, may_have_cuda

    model = of_index if reader == "auto" else reader
    why = (
        "it has a caption decoder" if reader == "auto" else f"{of_index} has no caption decoder; this is the best here"
    )
    where = "cuda" if may_have_cuda() else "cpu"
    precision = "bf16 where it keeps embeddings" if where == "cuda" or cpu_has_bf16() else "fp32"
    return Part(
        part="captions",
        model=model,
        runtime=f"torch on {where}",
        precision=precision,
        why=f"{why}; decoders run step by step and are not exported",
    )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return value
    except (OSError, ValueError):
        return None
