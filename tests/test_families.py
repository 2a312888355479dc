"""Weights never seen here: every published family with random weights, in the hub's own layout, indexed and searched by the
real command, beside plain open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.types import Query
from tests.conftest import Command, build, write_photos
from tests.families import FAMILIES, publish_family, repo_of

TEXTS = ["A red car, parked!", "zwei Hunde laufen durch den Schnee", "собака", "a photo of 12 lemons " * 30, "犬🐕"]
LONG = 3


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, for this process and for commands."""
    folder = tmp_path / "hf"
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    return folder / "hub"


def original_rows(model: Any, name: str, photos: list[Path]) -> tuple[Any, Any]:
    """What plain open_clip makes of photos and texts, unit rows."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    tokenizer = open_clip.get_tokenizer(name)
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in photos])
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    return images.numpy(), texts.numpy()


def least_cosine(one: Any, other: Any) -> float:
    unit = [rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (one, other)]
    return float((unit[0] * unit[1]).sum(1).min())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_model_indexes_and_finds_as_open_clip_would(
    family: str, hub: Path, command: Command, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 8)
    model = publish_family(family, tmp_path / "published")
    name = f"hf-hub:{repo_of(family)}"
    # open_clip asks the network for the tokenizer of a repository without a config.json, but not for that of a folder.
    by_folder = FAMILIES[family].tokenizer_repo is None
    images, texts = original_rows(model, f"local-dir:{tmp_path / 'published'}" if by_folder else name, photos)
    # A family whose embeddings were all alike would pass whatever is done to it.
    assert np.sort(images @ images.T, axis=1)[:, -2].max() < 0.9998
    assert np.sort(texts @ texts.T, axis=1)[:, -2].max() < 0.9998
    for precision, least in (("fp32", 0.9999), ("auto", 0.999)):
        index = tmp_path / f"{precision}.mmsearch"
        done = command(
            "index", str(tmp_path / "photos"), "--index", str(index), "--model", name, "--device", "cpu", "--precision",
            precision, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "could not be exported" not in done.stderr and "by torch" not in done.stderr, done.stderr
        with Engine.open(index, device="cpu") as engine:
            assert least_cosine(engine.embeddings(("image",)), images) >= least
            assert least_cosine(engine.embed_texts(TEXTS), texts) >= 0.999
            rows = [engine.embed_texts([text])[0] @ texts.T for text in TEXTS]
            assert [int(row.argmax()) for row in rows] == list(range(len(TEXTS)))
    for row in (0, LONG):
        done = command(
            "search", TEXTS[row], "--index", str(index), "--match", "meaning", "--copies", "--json", "-k", "8"
        )
        assert done.returncode == 0, done.stderr
        assert ("more than the model reads" in done.stderr) == (row == LONG)
        scores = {hit["path"]: hit["score"] for hit in map(json.loads, done.stdout.splitlines())}
        for photo, wanted in zip(photos, images @ texts[row], strict=True):
            assert abs(scores[str(photo)] - wanted) < 0.05
    done = command("search", "--image", str(photos[3]), "--index", str(index), "--json", "-k", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(photos[3])


def test_relevance_of_a_sigmoid_trained_model_is_by_its_own_scale_and_bias(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", 8)
    model = publish_family("SigLIP 2", tmp_path / "published")
    encoder = Encoder.load(f"hf-hub:{repo_of('SigLIP 2')}", "cpu", "fp32")
    build(tmp_path / "photos", encoder)
    # Nothing is relevant to words that are not in the vocabulary, which is made up here.
    monkeypatch.setattr("retrieval.models.query_encoder.QueryEncoder.knows", lambda *_: True)
    with Engine.open(tmp_path / "photos", device="cpu") as engine:
        assert engine.model.scale == pytest.approx(float(model.logit_scale.detach().exp()))
        assert engine.model.bias == -10
        hits = engine.search(Query(text=TEXTS[0], match="meaning", k=8))
        assert len(hits) == 8
        for hit in hits:
            logit = float(model.logit_scale.detach().exp()) * hit.first_stage_score - 10 + np.log(32_768 / 8)
            assert hit.relevance == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
