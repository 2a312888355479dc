"""A captioned set as a model sees it, and the reranker's scores of the first answers to each query.

Encoding is the long part of a measurement, so its result is kept by the content of the set and the model's own identity:
a second run reads it back.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.datasets import CaptionSet
from benchmarks.metrics import Flags, Floats
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.models.encoder import Encoder

CANDIDATES = 50
# Encoded sets are kept until they take this much together; a set whose image tokens alone take more goes without them.
CACHE_BYTES = 4 * 1024**3
_TOKEN_BYTES = 1024**3
_BATCH = 64
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EncodedSet:
    """Embeddings of images `(n, d)` and texts `(m, d)`, unit rows; `owner (m,)` is each text's image. For a reranker
    also image tokens `(n, t, w)` and token ids `(m, length)`; empty without one."""

    images: Floats
    texts: Floats
    owner: Ints
    tokens: Tensor
    ids: Tensor


@dataclass(frozen=True, kw_only=True)
class SecondStage:
    """The first answers to each query, best cosine first, `(queries, c)` each: which they are, their cosine, the reranker's
    score, the same for the null image, and whether they are right."""

    answers: Ints
    cosine: Floats
    likely: Floats
    prior: Floats
    right: Flags


def encode_set(
    data: CaptionSet,
    encoder: Encoder,
    decoder: CaptionDecoder | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> EncodedSet:
    """Encode a set, or read it from the folder `cache` where it was kept; `on_progress` gets the number of images done.

    Raises `MmsearchError` for an image that cannot be decoded.
    """
    flat = [text for many in data.captions for text in many]
    owner = np.repeat(np.arange(len(data.captions)), [len(many) for many in data.captions])
    file = cache / f"{_identity(data, encoder, decoder)}.safetensors" if cache is not None else None
    stored = _read(file) if file is not None else None
    if stored is None:
        stored = _encode(data, flat, encoder, decoder, on_progress)
        if file is not None:
            _keep(file, stored)
    on_progress(len(data.paths))
    return EncodedSet(
        images=stored["images"].numpy(),
        texts=stored["texts"].numpy(),
        owner=owner,
        tokens=stored["tokens"],
        ids=stored["ids"],
    )


def second_stage(data: EncodedSet, encoder: Encoder, decoder: CaptionDecoder) -> tuple[SecondStage, SecondStage]:
    """The reranker's scores of the `CANDIDATES` answers with the best cosine: text to image, and image to text."""
    size = encoder.spec.image_size
    null = decoder.image_tokens(torch.zeros(1, 3, size, size))
    tokens = data.tokens.to(null.device, null.dtype)
    priors = decoder.log_probabilities(null, data.ids).cpu().numpy()
    cosines = data.texts @ data.images.T
    first = [np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES] for scores in (cosines, cosines.T)]
    # A text and an image that are among the first of each other are one pair.
    rows = [np.broadcast_to(np.arange(len(answers))[:, None], answers.shape) for answers in first]
    codes = [rows[0] * len(tokens) + first[0], first[1] * len(tokens) + rows[1]]
    pairs = np.unique(np.concatenate([part.ravel() for part in codes]))
    scores = decoder.pair_log_probabilities(
        tokens, data.ids, torch.from_numpy(pairs % len(tokens)), torch.from_numpy(pairs // len(tokens))
    ).cpu().numpy()  # fmt: skip
    likely = [scores[np.searchsorted(pairs, part)] for part in codes]
    to_image = SecondStage(
        answers=first[0],
        cosine=np.take_along_axis(cosines, first[0], 1),
        likely=likely[0],
        prior=np.broadcast_to(priors[:, None], first[0].shape),
        right=first[0] == data.owner[:, None],
    )
    to_text = SecondStage(
        answers=first[1],
        cosine=np.take_along_axis(cosines.T, first[1], 1),
        likely=likely[1],
        prior=priors[first[1]],
        right=data.owner[first[1]] == rows[1],
    )
    return to_image, to_text


def _encode(
    data: CaptionSet,
    flat: list[str],
    encoder: Encoder,
    decoder: CaptionDecoder | None,
    on_progress: Callable[[int], None],
) -> dict[str, Tensor]:
    embeddings: list[Floats] = []
    tokens: list[Tensor] = []
    images = data.images(encoder.spec.image_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while part := list(itertools.islice(images, _BATCH)):
            pixels = list(pool.map(encoder.preprocess, part))
            embeddings.append(encoder.encode_pixels(pixels))
            if decoder is not None:
                tokens.append(decoder.image_tokens(torch.from_numpy(np.stack(pixels))).cpu())
            on_progress(sum(map(len, embeddings)))
    return {
        "images": torch.from_numpy(np.concatenate(embeddings)),
        "texts": torch.from_numpy(encoder.encode_texts(flat)),
        "tokens": torch.cat(tokens) if tokens else torch.empty(0),
        "ids": torch.from_numpy(encoder.loaded.tokenizer.encode(flat)) if decoder is not None else torch.empty(0),
    }


def _identity(data: CaptionSet, encoder: Encoder, decoder: CaptionDecoder | None) -> str:
    """A digest of everything that the encoded set depends on."""
    whole = hashlib.sha256()
    parts = [repr(encoder.spec), encoder.loaded.precision, str(decoder is not None), repr(data.captions)]
    whole.update("\0".join(parts).encode("utf-8", "surrogatepass"))
    for content in data.contents():
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()[:40]


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        tensors = load_file(file)
        os.utime(file)
    except (OSError, SafetensorError):
        return None
    return tensors if {"images", "texts", "tokens", "ids"} <= set(tensors) else None


def _keep(file: Path, value: dict[str, Tensor]) -> None:
    """Write, then delete what was used longest ago until the rest fits; a disk that is full costs only the next run's time."""
    if value["tokens"].nbytes > _TOKEN_BYTES:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".partial")
        save_file({name: entry.contiguous() for name, entry in value.items()}, scratch)
        os.replace(scratch, file)
        stats = sorted(
            (entry.stat().st_mtime, entry.stat().st_size, entry) for entry in file.parent.glob("*.safetensors")
        )
        total = sum(size for _, size, _ in stats)
        for _, size, old in stats:
            if total <= CACHE_BYTES or old == file:
                break
            old.unlink(missing_ok=True)
            total -= size
    except OSError:
        return
