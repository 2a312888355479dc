"""What was fitted for a model on held-out data and is stored beside its weights as `reader.json`; only this module reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import ModelError
from retrieval.models.weights import MINI
from retrieval.ranking.relevance import Calibration

FILE = "reader.json"
# What a search does where nothing was fitted: a nat a token weighs as much as this much cosine.
UNFITTED_WEIGHT = 0.05


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The weights of re-ranking and the meaning of scores; the defaults are for a model for which nothing was fitted.

    `weight` is v for images by a text; `text_weight` is v, and `null_share` λ, for texts by an image
    (`retrieval.crossmodal.rerank`). `cosine` and `fused` are the relevance of a cosine and of the fused score of an image by a
    text, None where they were not fitted.
    """

    weight: float = UNFITTED_WEIGHT
    text_weight: float = UNFITTED_WEIGHT
    null_share: float = 1.0
    cosine: Calibration | None = None
    fused: Calibration | None = None

    @staticmethod
    def of_model(name: str) -> Fitted:
        """What was fitted for the model called `name`, as an index remembers it."""
        if name == "mini":
            return Fitted.of(MINI)
        return Fitted.of(Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None)

    @staticmethod
    def of(folder: Path | None) -> Fitted:
        """What was fitted for the model in `folder`; the defaults where nothing was. Raises `ModelError` for a damaged file."""
        file = folder / FILE if folder is not None else None
        if file is None or not file.is_file():
            return Fitted()
        try:
            value = json.loads(file.read_text("utf-8"))
            weights, relevance = value.get("weighted", {}), value.get("relevance", {})
            return Fitted(
                weight=float(weights.get("weight", UNFITTED_WEIGHT)),
                text_weight=float(weights.get("text_weight", UNFITTED_WEIGHT)),
                null_share=float(weights.get("null_share", 1.0)),
                cosine=_calibration(relevance.get("cosine")),
                fused=_calibration(relevance.get("fused")),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{file} is damaged ({error!r}); fit it again with: python -m training.reader") from error


def _calibration(value: dict[str, float] | None) -> Calibration | None:
    if value is None:
        return None
    return Calibration(slope=float(value["slope"]), intercept=float(value["intercept"]))
