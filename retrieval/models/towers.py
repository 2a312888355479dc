"""Both towers of a model in OpenVINO: what embeds images and many texts on a CPU without importing torch or open_clip.

`retrieval.models.export` writes one folder for each set of weights in the cache, `Towers.find` opens it. Weights are stored in
half precision and mapped; the compiled graphs are cached beside them. A single query's words have a smaller tower of their own
(`retrieval.models.text_tower`), which starts faster.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError
from retrieval.models.exported import exported_folder
from retrieval.models.preprocess import image_pixels
from retrieval.models.processor import cpu_has_bf16, may_have_cuda
from retrieval.models.tokens import TextTokenizer
from retrieval.models.word_table import WordTable
from retrieval.types import ModelSpec

if TYPE_CHECKING:
    from PIL.Image import Image

FORMAT = 2
# OpenVINO's names of the precisions that the command knows. Half precision is left to GPUs.
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_TEXT_BATCH = 64

Floats = NDArray[np.float32]


class Towers:
    """The exported towers of one model, on the CPU. `precision` is what they compute in, `fp32` or `bf16`."""

    def __init__(self, folder: Path, precision: str) -> None:
        self._folder = folder
        self.precision = precision
        try:
            self.spec = ModelSpec.from_json(json.loads((folder / "towers.json").read_text("utf-8"))["spec"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: cannot read the exported towers: {error}") from error
        self._pixels = image_pixels(self.spec)

    @staticmethod
    def find(name: str, architecture: str, sha256: str, device: str, precision: str) -> Towers | None:
        """The towers exported for a model, where they can do what is asked for: None for a GPU, for half precision, or where
        nothing was exported."""
        if device not in ("auto", "cpu") or (device == "auto" and may_have_cuda()):
            return None
        folder = towers_folder(name, architecture, sha256)
        try:
            stored = json.loads((folder / "towers.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if precision == "auto":
            precision = stored["precision"] if cpu_has_bf16() else "fp32"
        if precision not in _HINTS or (precision == "bf16" and not cpu_has_bf16()):
            return None
        return Towers(folder, precision)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        return TextTokenizer.open(self._folder)

    def preprocess(self, image: Image) -> Floats:
        """An RGB image to `(3, s, s) float32`; on any thread."""
        return self._pixels(image)

    def encode_pixels(self, pixels: Floats) -> Floats:
        """Preprocessed images `(n, 3, s, s)` to `(n, d) float32`; not finite where an image's embedding is not."""
        return np.array(self._image(pixels)[0], np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Texts to `(n, d) float32`; a text longer than the model's context is cut."""
        rows = [np.empty((0, self.spec.dim), np.float32)]
        for start in range(0, len(texts), _TEXT_BATCH):
            ids = self.tokenizer.encode(texts[start : start + _TEXT_BATCH])
            given = {"ids": ids} if self._words is None else {"ids": ids, "words": self._words.take(ids)}
            names = [name for name in given if name in self._text_inputs]
            rows.append(np.array(self._text({name: given[name] for name in names})[0], np.float32))
        return np.concatenate(rows)

    @cached_property
    def _image(self) -> Any:
        return compiled(self._folder, "image", self.precision)

    @cached_property
    def _words(self) -> WordTable | None:
        return WordTable.open(self._folder)

    @cached_property
    def _text_inputs(self) -> set[str]:
        return {name for given in self._text.inputs for name in given.names}

    @cached_property
    def _text(self) -> Any:
        return compiled(self._folder, "text", self.precision)


def towers_folder(name: str, architecture: str, sha256: str) -> Path:
    """Where the towers of a model are, or would be."""
    return exported_folder("towers", FORMAT, name, architecture, sha256)


def compiled(folder: Path, tower: str, precision: str) -> Any:
    """One tower, compiled for this processor, from the cache where it was before. Raises `ModelError`."""
    # OpenVINO's package tells its makers of each import that it is used, unless this module is absent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    how = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        # Compiled graphs of another release are of no use to this one.
        "CACHE_DIR": str(folder / f"compiled-{openvino.get_version().split('-')[0]}"),
    }
    try:
        return openvino.Core().compile_model(str(folder / f"{tower}.xml"), "CPU", how)
    except RuntimeError as error:
        raise ModelError(f"{folder}: cannot open the exported {tower} tower: {' '.join(str(error).split())}") from error
