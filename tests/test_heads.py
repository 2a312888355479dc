"""The fusion heads: their formulas by hand, where they act, and that training puts right what the sum has wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.encoded import EncodedSet, SecondStage
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.heads import FILE, AttentionHead, ConcatHead, new_heads
from retrieval.crossmodal.rerank import Reranker, RerankFusion
from retrieval.errors import ModelError
from retrieval.models.weights import MINI
from retrieval.ranking.fitted import Fitted
from tests.cocas import conv_coca, loaded_coca
from tests.stores import items
from tests.test_rerank import by_text, cosines, seeded
from training.heads import train_heads

WIDTH = 8


def inputs(count: int = 3) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    real = torch.tensor([[True, True, True, False]])
    words, tokens = torch.randn(1, 4, WIDTH, generator=rng), torch.randn(count, 5, WIDTH, generator=rng)
    return words, real, tokens, torch.tensor([0.3, 0.2, 0.1]), torch.tensor([1.0, -1.0, 0.5])


def awake(head: torch.nn.Module) -> torch.nn.Module:
    for weights in head.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    return head.eval().requires_grad_(False)


def test_the_attention_head_is_its_formula() -> None:
    head = awake(AttentionHead(WIDTH, inner=6))
    assert isinstance(head, AttentionHead)
    words, real, tokens, cosine, second = inputs()
    found = head(words, real, tokens, cosine, second)
    text = F.layer_norm(words[0], (WIDTH,))
    for n in range(3):
        image = F.layer_norm(tokens[n], (WIDTH,))
        met = []
        for word in text[:3]:
            weights = (image @ head.key.weight.T @ (head.query.weight @ word) / 6**0.5).softmax(0)
            met.append((weights @ (image @ head.value.weight.T)) * (head.own.weight @ word))
        whole = torch.cat([torch.stack(met).mean(0), torch.tensor([5 * float(cosine[n]), float(second[n])])])
        assert float(found[n]) == pytest.approx(float(head.judge(whole)), abs=1e-4)


def test_the_concat_head_is_its_formula() -> None:
    head = awake(ConcatHead(WIDTH, inner=6))
    assert isinstance(head, ConcatHead)
    words, real, tokens, cosine, second = inputs()
    found = head(words, real, tokens, cosine, second)
    text = head.text.weight @ F.layer_norm(words[0, :3].mean(0), (WIDTH,))
    for n in range(3):
        image = head.picture.weight @ F.layer_norm(tokens[n].mean(0), (WIDTH,))
        scores = torch.tensor([5 * float(cosine[n]), float(second[n])])
        whole = torch.cat([text, image, text * image, scores])
        assert float(found[n]) == pytest.approx(float(head.judge(whole)), abs=1e-4)


@pytest.mark.parametrize("name", ["attention", "concat"])
def test_a_head_corrects_the_weighted_sum_in_a_search(tmp_path: Path, name: str) -> None:
    loaded = loaded_coca(conv_coca)
    decoder = CaptionDecoder(loaded)
    photos = [seeded.image(item.image_place) for item in items(5)]
    tokens = decoder.image_tokens(torch.stack([loaded.preprocess(photo) for photo in photos]))
    heads = new_heads(tokens.shape[-1])
    fitted = Fitted(weight=0.3)
    plain = by_text(Reranker(loaded, RerankFusion(fitted=fitted)), "a dog runs", 5)
    save_file(heads.state_dict(), tmp_path / FILE)
    fusion = RerankFusion(fitted=fitted, name=name, folder=tmp_path)
    untrained = by_text(Reranker(loaded, fusion), "a dog runs", 5)
    assert np.array_equal(untrained.fused, plain.fused)
    awake(heads)
    save_file(heads.state_dict(), tmp_path / FILE)
    done = by_text(Reranker(loaded, fusion), "a dog runs", 5)
    words, real = decoder.words(torch.from_numpy(loaded.tokenizer.encode(["a dog runs"])))
    with torch.inference_mode():
        corrections = heads[name](
            words, real, tokens, torch.from_numpy(cosines(5)), torch.from_numpy(plain.second)
        ).numpy()
    assert np.array_equal(done.second, plain.second)
    assert done.fused == pytest.approx(plain.fused + corrections, abs=1e-4)
    assert np.abs(corrections).max() > 0


def test_a_head_that_is_not_there_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no trained attention head"):
        RerankFusion.of(tmp_path, "attention")
    with pytest.raises(ModelError, match="unknown fusion 'sum'; use weighted, attention or concat"):
        RerankFusion.of(MINI, "sum")
    assert RerankFusion.of(MINI, "concat").name == "concat"


def test_training_learns_to_put_the_right_one_first() -> None:
    """Images of two sorts; the sum prefers the wrong one of each pair, and only the tokens tell."""
    decoder = CaptionDecoder(loaded_coca(conv_coca))
    rng = np.random.default_rng(0)
    width = decoder.words(torch.ones(1, 4, dtype=torch.long))[0].shape[-1]
    kinds = torch.from_numpy(rng.integers(0, 2, 40))
    direction = torch.randn(width, generator=torch.Generator().manual_seed(1))
    tokens = torch.randn(40, 4, width, generator=torch.Generator().manual_seed(2))
    tokens += 2 * (kinds[:, None, None] - 0.5) * direction
    good, bad = torch.nonzero(kinds == 1)[:, 0].numpy(), torch.nonzero(kinds == 0)[:, 0].numpy()
    answers = np.stack([[rng.choice(bad), rng.choice(good)] for _ in range(640)])
    zeros = np.zeros((640, 2), np.float32)
    stage = SecondStage(
        answers=answers,
        cosine=zeros + np.array([0.02, 0.0], np.float32),
        likely=zeros,
        prior=zeros,
        right=np.tile([False, True], (640, 1)),
    )
    data = EncodedSet(
        images=np.zeros((40, 4), np.float32),
        texts=np.zeros((640, 4), np.float32),
        owner=answers[:, 1],
        tokens=tokens,
        ids=torch.from_numpy(rng.integers(1, 50, (640, 6))),
    )
    heads = train_heads(data, stage, decoder, 0.3, rate=1e-2)
    words, real = decoder.words(data.ids[:1])
    for name in heads:
        right = 0
        for row in answers[:100]:
            fixes = heads[name](words, real, tokens[row], torch.tensor([0.02, 0.0]), torch.zeros(2))
            right += int(fixes[1] > fixes[0] + 0.02)
        assert right >= 95, name
