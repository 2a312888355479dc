"""What was fitted for a model, as its file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.errors import ModelError
from retrieval.ranking.fitted import FILE, UNFITTED_WEIGHT, Fitted
from retrieval.ranking.relevance import Calibration


def test_what_was_fitted_is_read_and_a_stranger_has_nothing(tmp_path: Path) -> None:
    value = {
        "weighted": {"weight": 0.4, "text_weight": 0.1, "null_share": 0.0},
        "relevance": {"cosine": {"slope": 2.0, "intercept": -1.0}},
    }
    (tmp_path / FILE).write_text(json.dumps(value))
    fitted = Fitted.of_model(f"local-dir:{tmp_path}")
    assert (fitted.weight, fitted.text_weight, fitted.null_share) == (0.4, 0.1, 0.0)
    assert fitted.cosine == Calibration(slope=2.0, intercept=-1.0) and fitted.fused is None
    assert Fitted.of(None) == Fitted.of(tmp_path / "none") == Fitted.of_model("ViT-B-32/openai")
    assert Fitted.of(None).weight == UNFITTED_WEIGHT
    assert Fitted.of_model("mini").fused is not None


@pytest.mark.parametrize("text", ["", "[]", '{"weighted": {"weight": "much"}}', '{"relevance": {"cosine": {}}}'])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match="is damaged") as caught:
        Fitted.of(tmp_path)
    assert "\n" not in str(caught.value)
