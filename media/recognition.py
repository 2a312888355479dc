"""Text in pictures: pixels to lines, with RapidOCR (PaddleOCR's models on ONNX Runtime), where the extra `ocr` is installed.

The wheel of RapidOCR carries its models. They are named by their files here, so that it looks nowhere else for them.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL.Image import Image, Resampling

from media.errors import MediaError, ModelError

# Long side, in pixels, that a picture is read at; a long strip, as of a receipt, is read with this short side, up to a bound.
_LONG, _SHORT, _LONGEST = 1600, 720, 4000
# Long side that lines are looked for at; they are read from the larger picture.
_DETECTED = 1280
# Pictures smaller than this hold no text that can be read.
_LEAST_LONG, _LEAST_SHORT = 64, 20
# How sure the model has to be of a line, in 0..1; of a line of one or two characters, which stains and edges look like, more.
_SURE, _SURE_OF_FEW, _FEW = 0.6, 0.85, 2
# The models in its wheel that find lines, turn them upright and read them; versions differ in the rest of the names.
_MODELS = {"Det": "*_det_*.onnx", "Cls": "*_cls_*.onnx", "Rec": "*_rec_*.onnx"}


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """One line of text in a picture, and how sure the model is of it, in 0..1."""

    text: str
    confidence: float


class TextRecogniser(Protocol):
    """What reads the text in a picture."""

    def read(self, image: Image) -> list[TextLine]:
        """The lines in an upright RGB picture, from the top; nothing where there is no text. Raises `MediaError`."""


def can_recognise() -> bool:
    """Whether the extra is installed; nothing is loaded for that."""
    return importlib.util.find_spec("rapidocr") is not None


class RapidRecogniser:
    """RapidOCR with the models that its wheel carries; they are loaded when the first picture is read. One thread at a time.

    Raises `ModelError` where the extra or its models are missing; nothing is downloaded.
    """

    def __init__(self, threads: int = 0) -> None:
        spec = importlib.util.find_spec("rapidocr")
        if spec is None or spec.origin is None:
            raise ModelError("reading the text in pictures needs RapidOCR; install it with: pip install rapidocr")
        models = {part: sorted(Path(spec.origin).parent.glob(f"models/{name}")) for part, name in _MODELS.items()}
        if not all(models.values()):
            raise ModelError("rapidocr has no models; install it anew with: pip install --force-reinstall rapidocr")
        self._params: dict[str, object] = {f"{part}.model_path": str(files[-1]) for part, files in models.items()}
        self._params["Global.log_level"] = "critical"
        # As PaddleOCR does: by default RapidOCR would make small pictures larger, at twice the cost.
        self._params["Det.limit_type"], self._params["Det.limit_side_len"] = "max", _DETECTED
        self._params["Global.text_score"] = _SURE
        # ONNX Runtime by itself counts the machine's cores, also where only some of them may be used.
        self._params["EngineConfig.onnxruntime.intra_op_num_threads"] = threads or _cpus()
        self._engine: object | None = None

    def read(self, image: Image) -> list[TextLine]:
        """See `TextRecogniser`."""
        engine = self._loaded()
        image = at_reading_size(image)
        if max(image.size) < _LEAST_LONG or min(image.size) < _LEAST_SHORT:
            return []
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
        try:
            read = engine(pixels)  # type: ignore[operator]
        except Exception as error:  # OpenCV, Shapely and ONNX Runtime raise what they like
            reason = " ".join(str(error).split())[-150:]
            raise MediaError("decode", f"its text cannot be read: {reason or type(error).__name__}") from error
        if getattr(read, "txts", None) is None:
            return []
        lines = [
            # The models tell the full-width letters of Chinese type from others, which no query does.
            TextLine(text=" ".join(unicodedata.normalize("NFKC", str(text)).split()), confidence=float(score))
            for text, score in zip(read.txts, read.scores, strict=True)
        ]
        return [line for line in lines if is_sure(line)]

    def _loaded(self) -> object:
        if self._engine is None:
            # Its logger prints to the terminal from the moment that it is imported.
            logger = logging.getLogger("RapidOCR")
            try:
                from rapidocr import RapidOCR

                logger.setLevel(logging.CRITICAL)
                self._engine = RapidOCR(params=self._params)
            except Exception as error:  # A broken installation of OpenCV or ONNX Runtime fails in many ways
                reason = " ".join(str(error).split())[:200]
                raise ModelError(f"rapidocr cannot be loaded: {reason}; --ocr off does without it") from error
            logger.setLevel(logging.CRITICAL)
        return self._engine


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_reading_size(image: Image) -> Image:
    """A picture made as small as its text can be read at; a smaller one as it is."""
    long, short = max(image.size), min(image.size)
    scale = min(1.0, max(_LONG / long, min(_SHORT / short, _LONGEST / long)))
    if scale == 1.0:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Resampling.LANCZOS, reducing_gap=2.0)


def is_sure(line: TextLine) -> bool:
    """Whether a line is kept."""
    letters = sum(letter.isalnum() for letter in line.text)
    return letters > 0 and line.confidence >= (_SURE_OF_FEW if letters <= _FEW else _SURE)
