"""Explanations: maps against finite differences and against what removing their places does to the score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.samples import copy_samples
from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig
from retrieval.crossmodal.explain import _forward, draw, explain
from retrieval.errors import ModelError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.models.loading import LoadedModel
from tests.cocas import conv_coca, loaded_coca, open_coca
from tests.conftest import Command, picture, write_photos


@pytest.fixture(scope="module", params=[conv_coca, open_coca])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_coca(request.param)


def test_every_word_has_a_map_over_the_picture(loaded: LoadedModel) -> None:
    done = explain(loaded, picture(3, 60, 40), "a dog runs on the grass")
    side = 2 if isinstance(loaded.model, type(conv_coca(300))) else 4
    assert done.words == ("a", "dog", "runs", "on", "the", "grass")
    assert done.relevance.shape == done.attention.shape == (6, side, side)
    assert done.whole.shape == (side, side)
    assert (done.relevance >= 0).all()
    assert np.allclose(done.attention.sum((1, 2)), 1, atol=1e-4)
    for total in (*done.relevance.sum((1, 2)), done.whole.sum()):
        assert total == pytest.approx(1, abs=1e-4) or total == 0
    assert done.whole.sum() > 0


def test_word_likelihoods_add_up_to_the_texts(loaded: LoadedModel) -> None:
    text = "two children play in the snow"
    done = explain(loaded, picture(3, 60, 40), text)
    decoder = CaptionDecoder(loaded)
    ids = torch.from_numpy(loaded.tokenizer.encode([text]))
    tokens = decoder.image_tokens(loaded.preprocess(picture(3, 60, 40))[None])
    whole = float(decoder.log_probabilities(tokens, ids)[0]) * (int((ids != 0).sum()) - 1)
    with torch.inference_mode():
        states = loaded.model._encode_text(ids)[1]
        length = int((ids != 0).sum())
        end = loaded.model.text_decoder(tokens, states[:, : length - 1]).log_softmax(-1)[0, -1, 2]
    assert float(done.log_probabilities.sum() + end) == pytest.approx(whole, abs=1e-3)


def test_gradients_are_those_of_finite_differences(loaded: LoadedModel) -> None:
    """The forward pass that keeps attention weights gives the model's own scores, and honest gradients."""
    decoder = CaptionDecoder(loaded)
    ids = torch.from_numpy(loaded.tokenizer.encode(["a red bike"]))
    tokens = decoder.image_tokens(loaded.preprocess(picture(5, 40, 40))[None]).clone()
    with torch.inference_mode():
        states = loaded.model._encode_text(ids)[1][:, :4].clone()
        own = loaded.model.text_decoder(tokens, states).log_softmax(-1)[0]
    states = states.clone()
    scores, weights = _forward(loaded.model.text_decoder, tokens, states, ids[:, 1:5])
    assert torch.allclose(scores, own.gather(-1, ids[0, 1:5, None])[:, 0], atol=1e-4)
    gradient = torch.autograd.grad(scores[2], weights)[-1]
    step = 1e-3
    last = loaded.model.text_decoder.cross_attn[-1]
    moved = []
    for sign in (1, -1):
        shifted = weights[-1].detach().clone()
        shifted[0, 0, 2, 1] += sign * step
        moved.append(_score_with(loaded, tokens, states, ids, last, shifted))
    assert float(gradient[0, 0, 2, 1]) == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=2e-2, rel=2e-2)


def _score_with(
    loaded: LoadedModel,
    tokens: torch.Tensor,
    states: torch.Tensor,
    ids: torch.Tensor,
    last: object,
    weight: torch.Tensor,
) -> float:
    """The third label's score with the last layer's attention replaced."""
    from retrieval.crossmodal.attention import finish_block, image_keys_values, join_heads

    decoder = loaded.model.text_decoder
    with torch.no_grad():
        x = states
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            x = block(x, attn_mask=decoder.attn_mask[:4, :4])
            if cross is last:
                x = finish_block(cross, x, join_heads(weight @ image_keys_values(cross, tokens)[1]))
            else:
                x = cross(x, k_x=tokens, v_x=tokens)
        scores = (decoder.ln_final(x) @ decoder.text_projection).log_softmax(-1)
    return float(scores[0, 2, ids[0, 3]])


def test_removing_what_is_highlighted_costs_more_than_removing_anything(mini: Encoder, tmp_path: Path) -> None:
    """Faithfulness over sixty cuts of the project's own photos, each with the caption that `mini` gives it."""
    copy_samples(tmp_path)
    loaded, decoder = mini.loaded, CaptionDecoder(mini.loaded)
    photos = [Image.open(file).convert("RGB") for file in sorted(tmp_path.glob("*.*")) if file.suffix != ".csv"]
    rng = np.random.default_rng(0)
    cuts = []
    for number in range(60):
        photo = photos[number % len(photos)]
        edge = int(min(photo.size) * rng.uniform(0.5, 1))
        left, top = int(rng.integers(0, photo.width - edge + 1)), int(rng.integers(0, photo.height - edge + 1))
        cuts.append(photo.crop((left, top, left + edge, top + edge)))
    lost_best, lost_random = [], []
    for cut in cuts:
        text = decoder.describe([cut], DecodeConfig(method="greedy"))[0].text
        whole = explain(loaded, cut, text).whole
        ids = torch.from_numpy(loaded.tokenizer.encode([text]))
        pixels = loaded.preprocess(cut)
        side, removed = whole.shape[0], whole.size // 4
        orders = [np.argsort(-whole.reshape(-1), kind="stable"), *(rng.permutation(whole.size) for _ in range(4))]
        batch = torch.stack([pixels, *(_without(pixels, order[:removed], side) for order in orders)])
        scores = decoder.log_probabilities(decoder.image_tokens(batch), ids).numpy()
        lost_best.append(scores[0] - scores[1])
        lost_random.append(scores[0] - scores[2:].mean())
    # Each of the 36 tokens sees nearly the whole picture, so where it is tells less than it did with more and smaller ones.
    assert np.mean(lost_best) > 1.02 * np.mean(lost_random)
    assert np.mean(np.array(lost_best) > np.array(lost_random)) > 0.5


def _without(pixels: torch.Tensor, places: np.ndarray[tuple[int], np.dtype[np.int64]], side: int) -> torch.Tensor:
    out, size = pixels.clone(), pixels.shape[1] // side
    for place in places.tolist():
        row, column = divmod(place, side)
        out[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = 0
    return out


def test_the_picture_of_an_explanation_has_a_panel_a_word(loaded: LoadedModel) -> None:
    done = explain(loaded, picture(3, 80, 40), "two children play in snow")
    sheet = draw(picture(3, 80, 40), done, "squash", width=100)
    assert sheet.size == (4 * 108 + 8, 2 * (50 + 28 + 8) + 8)
    square = draw(picture(3, 80, 40), done, "shortest", width=100)
    assert square.height > sheet.height
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 100


def test_what_cannot_be_explained_says_so(loaded: LoadedModel, mini: Encoder) -> None:
    with pytest.raises(QueryError, match="no words"):
        explain(loaded, picture(1), "   ")
    # "dog" is two tokens here, so seven of them fill what the decoder reads.
    assert explain(loaded, picture(1), "dog " * 100).words == ("dog",) * 7


def test_the_command_writes_a_png(tmp_path: Path, command: Command, mini: object) -> None:
    write_photos(tmp_path, 1)
    done = command("explain", "photo0000.jpg", "a red kite", "--model", "mini", "--output", "why.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "why.png") as sheet:
        assert sheet.format == "PNG"
    assert command("explain", "photo0000.jpg", "a kite", "--model", "mini").stdout == "wrote photo0000-explained.png\n"
    for arguments, status, reason in (
        (["gone.jpg", "x"], 1, "No such file"),
        (["photo0000.jpg", ""], 2, "no words"),
        (["photo0000.jpg", "x", "--output", "no/such/folder.png"], 1, "cannot write"),
    ):
        bad = command("explain", *arguments, "--model", "mini")
        assert bad.returncode == status
        assert reason in bad.stderr.splitlines()[-1]


def test_a_model_without_a_decoder_is_refused() -> None:
    from dataclasses import replace

    loaded = loaded_coca(conv_coca)
    plain = conv_coca(300)
    plain.text_decoder = None
    with pytest.raises(ModelError, match="no caption decoder"):
        explain(replace(loaded, model=plain), picture(1), "a dog")
