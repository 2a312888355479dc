"""How fast re-ranking and captions are, and what the key-value cache saves. `python -m benchmarks.reader --help`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed import report, spread
from media.reader import ImageReader
from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig
from retrieval.crossmodal.rerank import Reranker, RerankFusion
from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.models.loading import load_model
from retrieval.types import Query

WORDS = ["a dog in the snow", "two children playing football", "a man on a red bike", "people at night"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    rerank = commands.add_parser("rerank", help="re-ranking 50 candidates of an index, warm")
    rerank.add_argument("index", type=Path)
    rerank.add_argument("--rounds", type=int, default=7)
    captions = commands.add_parser("captions", help="captions of a folder's pictures, decoding of the files included")
    captions.add_argument("folder", type=Path)
    captions.add_argument("--model", default="mini")
    captions.add_argument("--rounds", type=int, default=5)
    cache = commands.add_parser("cache", help="greedy decoding with the key-value cache against a plain one")
    cache.add_argument("--model", required=True)
    cache.add_argument("--tokens", type=int, default=30)
    cache.add_argument("--images", type=int, default=4)
    cache.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    if given.what == "rerank":
        report(measure_rerank(given.index, given.rounds))
    elif given.what == "captions":
        report(measure_captions(given.folder, given.model, given.rounds))
    else:
        report(measure_cache(given.model, given.tokens, given.images, given.rounds))
    return 0


def measure_rerank(index: Path, rounds: int) -> dict[str, object]:
    """Seconds to re-rank 50 candidates whose images must be read and decoded, and again from the cache of tokens."""
    import tempfile

    with Engine.open(index) as engine, tempfile.TemporaryDirectory() as scratch:
        loaded = load_model(engine.model.name)
        images = ImageReader()
        fresh: list[float] = []
        from_cache: list[float] = []
        for number in range(rounds + 1):
            words = WORDS[number % len(WORDS)]
            hits = engine.search(Query(text=words, k=50))
            items = [hit.item for hit in hits]
            cosines = np.array([hit.first_stage_score for hit in hits], np.float32)
            reranker = Reranker(loaded, RerankFusion(), Path(scratch) / str(number))
            for seconds in (fresh, from_cache):
                began = time.perf_counter()
                done = reranker.by_text(words, items, cosines, images)
                seconds.append(time.perf_counter() - began)
        return {
            "model": engine.model.name,
            "precision": loaded.precision,
            "candidates": int(np.isfinite(done.second).sum()),
            "seconds_reading_files": spread(fresh[1:]),
            "seconds_from_the_cache": spread(from_cache[1:]),
        }


def measure_captions(folder: Path, model: str, rounds: int) -> dict[str, object]:
    """Images a second through decoding, preprocessing, the image tower and beam search (4 beams), 16 at a time."""
    from media.image import decode_image

    loaded = Encoder.load(model).loaded
    decoder = CaptionDecoder(loaded)
    files = sorted(folder.glob("*.jpg"))[:64]
    rates: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for start in range(0, len(files), 16):
            part = [decode_image(file.read_bytes(), loaded.spec.image_size).rgb for file in files[start : start + 16]]
            decoder.describe(part)
        rates.append(len(files) / (time.perf_counter() - began))
    return {
        "model": model,
        "precision": loaded.precision,
        "images": len(files),
        "images_per_second": spread(rates[1:]),
    }


def measure_cache(model: str, length: int, images: int, rounds: int) -> dict[str, object]:
    """Greedy decoding of exactly `length` tokens, both ways in turn; the tokens are checked to be the same."""
    loaded = load_model(model, "cpu", "fp32")
    decoder = CaptionDecoder(loaded)
    size = loaded.spec.image_size
    tokens = decoder.image_tokens(torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0)))
    config = DecodeConfig(method="greedy", min_length=length, max_length=length, no_repeat=0)
    cached: list[float] = []
    plain: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        with_cache = [list(caption.ids) for caption in decoder.decode(tokens, config)]
        cached.append(time.perf_counter() - began)
        began = time.perf_counter()
        without = _plain_greedy(loaded.model, tokens, loaded.tokenizer.rules.prefix[-1], length, config, decoder)
        plain.append(time.perf_counter() - began)
        if with_cache != without:
            raise AssertionError("the cached decode gave other tokens than the plain one")
    return {
        "model": model,
        "tokens": length,
        "images": images,
        "seconds_cached": spread(cached[1:]),
        "seconds_plain": spread(plain[1:]),
        "times_as_fast": spread([slow / fast for slow, fast in zip(plain[1:], cached[1:], strict=True)]),
    }


def _plain_greedy(
    model: object, tokens: Tensor, start: int, length: int, config: DecodeConfig, decoder: CaptionDecoder
) -> list[list[int]]:
    """What a decode without a cache costs: the whole prefix through text tower and decoder for each new token."""
    ids = torch.full((len(tokens), 1), start)
    with torch.inference_mode():
        for _ in range(length):
            states = model._encode_text(ids)[1]  # type: ignore[attr-defined]
            logits = model.text_decoder(tokens, states)[:, -1]  # type: ignore[attr-defined]
            allowed = decoder.bar(logits.float().log_softmax(-1), ids[:, 1:], [], config)
            ids = torch.cat([ids, allowed.argmax(-1)[:, None]], 1)
    return [row[1:] for row in ids.tolist()]


if __name__ == "__main__":
    raise SystemExit(main())
