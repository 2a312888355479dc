"""Matching heads: they learn to tell pairs apart, and score a pair the same alone and among others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from retrieval.decoder import CaptionDecoder
from retrieval.encoder import Encoder
from retrieval.errors import ModelError, QueryError
from retrieval.heads import HEADS, HeadScorer, new_heads
from retrieval.rerank import Fusion, Reranker, scorer
from retrieval.types import FUSIONS
from retrieval.weights import MINI
from tests.cocas import conv_coca, loaded_coca
from tests.conftest import picture
from tests.test_rerank import hits, seeded
from training.data import CaptionedImages
from training.heads import draw_pairs, train_heads

WORDS = ["a dog", "two children", "the snow", "a man rides", "a red bike", "the grass", "a wall", "play in"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads trained on eight pictures until they know them, in a model's folder."""
    folder = tmp_path_factory.mktemp("heads")
    images = np.stack([np.array(picture(seed, 40, 40)) for seed in range(8)])
    data = CaptionedImages(images=images, captions=tuple((word,) for word in WORDS))
    heads = train_heads(loaded_coca(conv_coca), data, epochs=150, batch=8, rate=3e-3)
    save_file(
        {name: value.half().contiguous() for name, value in heads.state_dict().items()}, folder / "heads.safetensors"
    )
    return folder


@pytest.mark.parametrize("name", HEADS)
def test_a_trained_head_knows_its_pairs(trained: Path, name: str) -> None:
    loaded = loaded_coca(conv_coca)
    score = HeadScorer.load(loaded.model, trained, name, 0)
    tokens = CaptionDecoder(loaded).image_tokens(torch.stack([loaded.preprocess(picture(n, 40, 40)) for n in range(8)]))
    ids = torch.from_numpy(loaded.tokenizer.encode(WORDS))
    table = torch.stack([score.scores(tokens, ids[n : n + 1]) for n in range(8)])
    assert (table.argmax(1) == torch.arange(8)).float().mean() >= 0.75
    own = table.diagonal().mean()
    assert float(own) > float((table.sum() - table.diagonal().sum()) / 56) + 1
    across = torch.stack([score.scores(tokens[n : n + 1], ids) for n in range(8)]).T
    assert torch.allclose(table, across, atol=1e-4)
    assert torch.allclose(score.scores(tokens, ids), table.diagonal(), atol=1e-4)


def test_padding_counts_for_nothing(trained: Path) -> None:
    loaded = loaded_coca(conv_coca)
    heads = new_heads(32).eval()
    states, tokens = torch.randn(2, 10, 32), torch.randn(2, 4, 32)
    real = torch.zeros(2, 10, dtype=torch.bool)
    real[:, :5] = True
    changed = states.clone()
    changed[:, 5:] = 100
    for head in heads.values():
        assert torch.allclose(head(states, tokens, real), head(changed, tokens, real), atol=1e-4)
    assert loaded.tokenizer.rules.pad == 0


@pytest.mark.parametrize("name", HEADS)
def test_re_ranking_uses_the_head_and_its_fitted_weight(trained: Path, name: str) -> None:
    loaded = loaded_coca(conv_coca)
    (trained / "reader.json").write_text(
        json.dumps({"fusions": {name: {"weight": 0.25, "text_weight": 0.1, "null_share": 0.5}}})
    )
    fusion = Fusion.of(trained, name)  # type: ignore[arg-type]
    assert (fusion.weight, fusion.text_weight, fusion.null_share) == (0.25, 0.1, 0.5)
    score = scorer(loaded, trained, name)  # type: ignore[arg-type]
    decoder = CaptionDecoder(loaded)
    ids = torch.from_numpy(loaded.tokenizer.encode(["a dog"]))
    null = float(score(decoder.image_tokens(torch.zeros(1, 3, 32, 32)), ids)[0])
    for hit in Reranker(loaded, fusion, folder=trained).rerank("a dog", hits(4), seeded).hits:
        own = float(score(decoder.image_tokens(loaded.preprocess(seeded(hit.item))[None]), ids)[0])
        assert hit.rerank_score == pytest.approx(own - null, abs=1e-4)
        assert hit.score == pytest.approx(hit.first_stage_score + 0.25 * (own - null), abs=1e-4)


def test_a_model_without_heads_and_an_unknown_fusion_say_so(tmp_path: Path) -> None:
    loaded = loaded_coca(conv_coca)
    with pytest.raises(ModelError, match="--fusion weighted"):
        Reranker(loaded, Fusion(name="attention"), folder=tmp_path)
    with pytest.raises(QueryError, match="use weighted, attention, concat"):
        scorer(loaded, tmp_path, "best")  # type: ignore[arg-type]


def test_wrong_pairs_are_wrong_and_hard() -> None:
    alike = torch.full((6, 6), -5.0)
    alike[torch.arange(6), (torch.arange(6) + 1) % 6] = 5.0
    image, text = draw_pairs(alike, torch.Generator().manual_seed(0))
    assert image.tolist() == [1, 2, 3, 4, 5, 0]
    assert text.tolist() == [5, 0, 1, 2, 3, 4]


def test_mini_ships_every_fusion(mini: Encoder) -> None:
    fitted = json.loads((MINI / "reader.json").read_text("utf-8"))
    assert fitted["weights_sha256"] == mini.spec.weights_sha256
    assert list(fitted["fusions"]) == list(FUSIONS)
    assert list(fitted["relevance"]) == ["cosine", *FUSIONS]
    assert all(curve["slope"] > 0 for curve in fitted["relevance"].values())
    for name in FUSIONS:
        assert Fusion.of(MINI, name).weight > 0
        scorer(mini.loaded, MINI, name)
