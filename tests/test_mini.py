"""What the shipped model has to know, and what it must not claim to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.samples import copy_samples
from benchmarks.zero_shot import EVERYDAY, everyday
from retrieval.models.encoder import Encoder
from retrieval.ranking.fitted import Fitted
from retrieval.ranking.relevance import Calibration
from tests.conftest import picture

QUERIES = ["a dog", "two children playing", "a red car", "a plate of food", "a man on a bicycle", "a boat on a lake", "a bird",
           "people at a party", "snow on a mountain", "a train"]  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> Calibration:
    fitted = Fitted.of_model("mini").cosine
    assert fitted is not None
    return fitted


def test_everyday_queries_bring_the_right_sample_first(mini: Encoder) -> None:
    brought = everyday(mini)
    wrong = {query: name for query, name in brought.items() if name != EVERYDAY[query]}
    assert len(wrong) <= 7, wrong
    assert not {"a cat", "cup of coffee", "a horse", "motorcycle", "photographer with a tripod"} & set(wrong)


def test_nothing_is_seen_in_pictures_of_nothing(mini: Encoder, judge: Calibration, tmp_path: Path) -> None:
    """Blank, dark and noisy frames, textures, a scan and a diagram are not likely to be anything that somebody asks for."""
    rng = np.random.default_rng(0)
    flat = [np.full((200, 300, 3), shade, np.uint8) for shade in (0, 40, 128, 255)]
    noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    images = [Image.fromarray(array) for array in (*flat, noise, noise // 8)]
    copy_samples(tmp_path)
    for name in ("brick.png", "gravel.png", "page.png", "text.png"):
        with Image.open(tmp_path / name) as texture:
            images.append(texture.convert("RGB"))
    images += [picture(seed, 300, 200) for seed in range(4)]
    cosines = mini.encode_texts(QUERIES) @ mini.encode_images(images).T
    relevance = judge.relevance(cosines)
    assert float(np.mean(relevance >= 0.5)) <= 0.02
    assert float(relevance.max()) < 0.9


def test_words_that_nobody_knows_are_told_from_rare_ones(mini: Encoder) -> None:
    assert all(
        mini.knows(words) for words in ("a baboon", "corgi", "celery", "espresso", "tench", "a photo of bibimbap")
    )
    assert not any(mini.knows(words) for words in ("asdfgh", "blorft", "flumpish wug", "qwertz zxcvb"))
