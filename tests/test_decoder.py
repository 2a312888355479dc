"""Decoding against a decode that recomputes everything at each step, on both kinds of CoCa."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig
from retrieval.errors import ModelError, QueryError
from retrieval.models.convcoca import ConvCoCa
from retrieval.models.loading import LoadedModel
from retrieval.models.tokens import TextTokenizer
from tests.cocas import conv_coca, loaded_coca, open_coca, small_sizes


@pytest.fixture(scope="module", params=[conv_coca, open_coca])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_coca(request.param)


def tokens_of(decoder: CaptionDecoder, count: int = 5) -> Tensor:
    return decoder.image_tokens(torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def scores_after(model: Any, image: Tensor, ids: list[int], tokenizer: TextTokenizer) -> Tensor:
    """Log-probabilities of the next token, everything computed anew by the model's own modules."""
    row = torch.tensor([[*ids, *[0] * (tokenizer.rules.length - len(ids))]])
    with torch.inference_mode():
        states = model._encode_text(row)[1]
        logits = model.text_decoder(image[None], states[:, : len(ids)])
    scores: Tensor = logits[0, -1].float().log_softmax(-1)
    return scores


def plain_greedy(loaded: LoadedModel, image: Tensor, config: DecodeConfig) -> tuple[list[int], float]:
    ids, total = [1], 0.0
    while len(ids) <= config.max_length:
        scores = scores_after(loaded.model, image, ids, loaded.tokenizer)
        allowed = scores.clone()
        allowed[[0, 1]] = -torch.inf
        if len(ids) - 1 < config.min_length:
            allowed[2] = -torch.inf
        size = config.no_repeat
        tail = ids[1:][len(ids) - size :] if size else []
        for at in range(1, len(ids) - size + 1):
            if size and ids[at : at + size - 1] == tail:
                allowed[ids[at + size - 1]] = -torch.inf
        chosen = int(allowed.argmax())
        total += float(scores[chosen])
        if chosen == 2:
            return ids[1:], total
        ids.append(chosen)
    return ids[1:], total + float(scores_after(loaded.model, image, ids, loaded.tokenizer)[2])


@pytest.mark.parametrize("no_repeat", [0, 1, 2, 3])
def test_greedy_with_a_cache_gives_the_tokens_of_a_plain_decode(loaded: LoadedModel, no_repeat: int) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder)
    config = DecodeConfig(method="greedy", no_repeat=no_repeat, max_length=10, min_length=2)
    for image, caption in zip(tokens, decoder.decode(tokens, config), strict=True):
        ids, total = plain_greedy(loaded, image, config)
        assert list(caption.ids) == ids
        assert caption.log_probability == pytest.approx(total, abs=1e-3)


def plain_beam(loaded: LoadedModel, image: Tensor, config: DecodeConfig) -> tuple[list[int], float]:
    """Beam search without a batch, a cache or an early stop."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, float, list[int]]] = []
    for length in range(config.max_length + 1):
        grown: list[tuple[float, list[int]]] = []
        for total, ids in live:
            scores = scores_after(loaded.model, image, [1, *ids], loaded.tokenizer)
            if length >= config.min_length:
                final = total + float(scores[2])
                finished.append((final / (length + 1) ** config.length_power, final, ids))
            scores[[0, 1, 2]] = -torch.inf
            best = scores.topk(config.beams)
            grown += [(total + float(s), [*ids, int(i)]) for s, i in zip(best.values, best.indices, strict=True)]
        live = sorted(grown, reverse=True)[: config.beams]
    _, total, ids = max(finished)
    return ids, total


@pytest.mark.parametrize("beams", [1, 3])
def test_beam_search_finds_what_a_plain_one_finds(loaded: LoadedModel, beams: int) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder, 4)
    config = DecodeConfig(method="beam", beams=beams, no_repeat=0, max_length=7, min_length=2)
    for image, caption in zip(tokens, decoder.decode(tokens, config), strict=True):
        ids, total = plain_beam(loaded, image, config)
        assert list(caption.ids) == ids
        assert caption.log_probability == pytest.approx(total, abs=1e-3)


def test_a_caption_does_not_depend_on_its_neighbours_in_the_batch(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder)
    for method in ("greedy", "beam"):
        config = DecodeConfig(method=method)
        together = decoder.decode(tokens, config)
        alone = [decoder.decode(tokens[n : n + 1], config)[0] for n in range(len(tokens))]
        assert [one.ids for one in together] == [one.ids for one in alone]


def test_log_probability_is_what_the_likelihood_of_the_caption_says(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder)
    for image, caption in zip(tokens, decoder.decode(tokens), strict=True):
        row = [1, *caption.ids, 2]
        ids = torch.tensor([row + [0] * (loaded.tokenizer.rules.length - len(row))])
        mean = float(decoder.log_probabilities(image[None], ids)[0])
        assert mean * (len(caption.ids) + 1) == pytest.approx(caption.log_probability, abs=1e-3)


def test_one_text_against_many_images_equals_pair_by_pair(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder)
    ids = torch.from_numpy(loaded.tokenizer.encode(["a dog runs"]))
    together = decoder.log_probabilities(tokens, ids)
    alone = torch.cat([decoder.log_probabilities(tokens[n : n + 1], ids) for n in range(len(tokens))])
    assert torch.allclose(together, alone, atol=1e-5)


def test_lengths_and_repeats_are_held(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder, 8)
    for method in ("greedy", "beam", "nucleus"):
        config = DecodeConfig(method=method, min_length=4, max_length=9, no_repeat=2)
        for caption in decoder.decode(tokens, config):
            assert 4 <= len(caption.ids) <= 9
            pairs = list(pairwise(caption.ids))
            assert len(pairs) == len(set(pairs))
    assert all(len(one.ids) <= 14 for one in decoder.decode(tokens, DecodeConfig(max_length=1000, no_repeat=0)))


def test_sampling_repeats_with_its_seed_and_differs_with_another(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder, 6)
    config = DecodeConfig(method="nucleus", top_p=0.95, temperature=2.0)
    first = [one.ids for one in decoder.decode(tokens, config)]
    assert first == [one.ids for one in decoder.decode(tokens, config)]
    assert first != [one.ids for one in decoder.decode(tokens, replace(config, seed=1))]
    narrow = decoder.decode(tokens, replace(config, top_p=1e-6))
    assert [one.ids for one in narrow] == [one.ids for one in decoder.decode(tokens, DecodeConfig(method="greedy"))]


def test_a_prefix_begins_every_caption(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    tokens = tokens_of(decoder, 3)
    for method in ("greedy", "beam", "nucleus"):
        for caption in decoder.decode(tokens, DecodeConfig(method=method, prefix="two children")):
            assert caption.text.startswith("two children")
    with pytest.raises(QueryError, match="the prefix has"):
        decoder.decode(tokens, DecodeConfig(prefix="grass snow wall " * 20))


def test_no_images_give_no_captions(loaded: LoadedModel) -> None:
    decoder = CaptionDecoder(loaded)
    assert decoder.decode(tokens_of(decoder)[:0]) == []


@pytest.mark.parametrize(
    "config",
    [DecodeConfig(beams=0), DecodeConfig(min_length=9, max_length=3), DecodeConfig(top_p=0.0),
     DecodeConfig(method="fast")],  # type: ignore[arg-type]
)  # fmt: skip
def test_settings_out_of_range_are_refused(loaded: LoadedModel, config: DecodeConfig) -> None:
    decoder = CaptionDecoder(loaded)
    with pytest.raises(QueryError):
        decoder.decode(tokens_of(decoder, 1), config)


def test_a_model_without_a_decoder_names_one_that_has_it() -> None:
    model = ConvCoCa(small_sizes(50, decoder_layers=0))
    loaded = replace(loaded_coca(conv_coca), model=model)
    with pytest.raises(ModelError, match="mini"):
        CaptionDecoder(loaded)
