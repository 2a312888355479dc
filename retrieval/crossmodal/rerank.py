"""Re-ranking: a model that looks at words and pixels together orders the hits of the dual encoders again.

A CoCa's decoder reads the words and attends from each to the image's tokens, softmax(QKᵀ/√d)V; how likely it then finds
those words is the second score, g(text, image) = log P(text | image) / tokens, in nats.

It joins the first stage's cosine c in a weighted sum, less a share of what the text scores by itself:

    r = g(text, image) − λ · g(text, null image)          higher is better
    s = c + v · r

The null image is a plain one of the mean colour. Images are ordered by a text with λ = 1: r is then 0 for an image that
says nothing of the text, so one that could not be read keeps its cosine as a neutral score, and no score depends on which
other candidates there were. Texts are ordered by an image with a λ and a v of their own: with λ = 0 a decoder prefers
common sentences to fitting ones. All three are fitted on held-out pairs and stored with the model.

The fusions `attention` and `concat` add a trained head's correction to the sum when images are ordered by a text
(`retrieval.crossmodal.heads`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.heads import check_head, load_head
from retrieval.errors import MediaError, QueryError
from retrieval.files import DiskCache
from retrieval.ranking.fitted import Fitted
from retrieval.types import WEIGHTED, Item

if TYPE_CHECKING:
    from PIL.Image import Image

    from media.reader import ImageSource
    from retrieval.models.loading import LoadedModel

Floats = NDArray[np.float32]
CACHE_BYTES = 512 * 1024**2
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class RerankFusion:
    """How both scores join: by what was `fitted` for the model in `folder`, and by the head called `name` where that is not
    `weighted`."""

    fitted: Fitted = field(default_factory=Fitted)
    name: str = WEIGHTED
    folder: Path | None = None

    @staticmethod
    def of(folder: Path | None, name: str = WEIGHTED) -> RerankFusion:
        """What was fitted for the model in `folder`. Raises `ModelError` for a fusion that this model has no head for."""
        if name != WEIGHTED:
            check_head(folder, name)
        return RerankFusion(fitted=Fitted.of(folder), name=name, folder=folder)


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """Scores of candidates in their order: `fused (n,) float32`, higher is better, the cosine of a candidate that was not read;
    `second (n,) float32`, in nats a token, NaN for one that was not. `unreadable` are the paths of those whose image is gone
    or damaged, each with the reason. `out_of_time` says that the budget left the rest unread, `text_cut` that the text was
    longer than the model reads."""

    fused: Floats
    second: Floats
    unreadable: tuple[tuple[str, str], ...] = ()
    out_of_time: bool = False
    text_cut: bool = False


class Reranker:
    """Scores candidates again, images by a text or texts by an image. Raises `ModelError` for a model without a decoder."""

    def __init__(self, loaded: LoadedModel, fusion: RerankFusion, cache: Path | None = None) -> None:
        self.loaded = loaded
        self._decoder = CaptionDecoder(loaded)
        self._fusion = fusion
        self._cache = TokenCache(cache / loaded.spec.weights_sha256[:32]) if cache is not None else None
        self._null: Tensor | None = None
        self._head = None
        if fusion.name != WEIGHTED:
            self._head = load_head(fusion.folder, fusion.name, next(loaded.model.parameters()))

    def by_text(
        self, text: str, items: Sequence[Item], cosines: Floats, images: ImageSource, milliseconds: float | None = None
    ) -> Reranked:
        """Read the image of each item, in their order and at most for `milliseconds`; `cosines (n,)` are their first scores.

        `images` is asked from several threads. Raises `QueryError` for an empty text.
        """
        if not text.strip():
            raise QueryError("re-ranking needs words")
        began = time.monotonic()
        ids = torch.from_numpy(self.loaded.tokenizer.encode([text]))
        prior = float(self._decoder.log_probabilities(self._null_tokens(), ids)[0])
        second = np.full(len(items), np.nan, np.float32)
        corrections = np.zeros(len(items), np.float32)
        unreadable: list[tuple[str, str]] = []
        done = 0
        for numbers, tokens, errors in self._read(items, images):
            unreadable += errors
            if len(numbers):
                likely = self._decoder.log_probabilities(tokens, ids) - prior
                second[numbers] = likely.float().cpu().numpy()
                corrections[numbers] = self._corrections(ids, tokens, cosines[numbers], likely)
            done += min(_BATCH, len(items) - done)
            if _spent(began, milliseconds):
                break
        fused, second = _fuse(cosines, second, self._fusion.fitted.weight, corrections)
        return Reranked(
            fused=fused,
            second=second,
            unreadable=tuple(unreadable),
            out_of_time=done < len(items),
            text_cut=not self.loaded.tokenizer.fits(text),
        )

    def by_images(
        self, images: Sequence[Image], items: Sequence[Item], cosines: Floats, milliseconds: float | None = None
    ) -> Reranked:
        """The same the other way round: passages and captions by how likely each is for the images, on average. Here λ matters
        most: without it the commonest sentence would win for every image.
        """
        began = time.monotonic()
        tokens = self._decoder.image_tokens(torch.stack([self.loaded.preprocess(image) for image in images]))
        second = np.full(len(items), np.nan, np.float32)
        done = 0
        for start in range(0, len(items), 4 * _BATCH):
            part = slice(start, start + 4 * _BATCH)
            ids = torch.from_numpy(self.loaded.tokenizer.encode([item.text or "" for item in items[part]]))
            priors = self._decoder.log_probabilities(self._null_tokens(), ids)
            likely = torch.stack(
                [self._decoder.log_probabilities(image_tokens[None], ids) for image_tokens in tokens]
            ).mean(0)
            second[part] = (likely - self._fusion.fitted.null_share * priors).float().cpu().numpy()
            done += len(items[part])
            if _spent(began, milliseconds):
                break
        fused, second = _fuse(cosines, second, self._fusion.fitted.text_weight, np.zeros(len(items), np.float32))
        return Reranked(fused=fused, second=second, out_of_time=done < len(items))

    def _corrections(self, ids: Tensor, tokens: Tensor, cosines: Floats, second: Tensor) -> Floats:
        """What the head adds to each sum `(n,)`; nothing for the weighted fusion."""
        if self._head is None:
            return np.zeros(len(cosines), np.float32)
        with torch.inference_mode():
            cosine = torch.from_numpy(cosines).to(tokens.device)
            corrections: Tensor = self._head(*self._decoder.words(ids), tokens, cosine, second)
        return corrections.float().cpu().numpy()

    def _read(
        self, items: Sequence[Item], images: ImageSource
    ) -> Iterator[tuple[list[int], Tensor, list[tuple[str, str]]]]:
        """Some items at a time: the positions of those that could be read, their image tokens `(n, t, w)`, and the errors of
        the others. Images are decoded on threads, one part ahead of the model."""

        def prepare(item: Item) -> Tensor | MediaError:
            cached = self._cache.get(item.sha256) if self._cache is not None else None
            if cached is not None:
                return cached
            try:
                return self.loaded.preprocess(images.image(item.image_place))
            except MediaError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="rerank") as pool:
            starts = range(0, len(items), _BATCH)
            ahead = [pool.submit(prepare, item) for item in items[:_BATCH]]
            for start in starts:
                ready = [waiting.result() for waiting in ahead]
                ahead = [pool.submit(prepare, item) for item in items[start + _BATCH : start + 2 * _BATCH]]
                try:
                    yield self._tokens(items, start, ready)
                except GeneratorExit:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def _tokens(
        self, items: Sequence[Item], start: int, ready: Sequence[Tensor | MediaError]
    ) -> tuple[list[int], Tensor, list[tuple[str, str]]]:
        """Image tokens of the items from `start` on, from the cache or from their pixels."""
        tokens: dict[int, Tensor] = {}
        fresh: list[tuple[int, Tensor]] = []
        errors: list[tuple[str, str]] = []
        weight = next(self.loaded.model.parameters())
        for number, value in enumerate(ready, start):
            if isinstance(value, MediaError):
                errors.append((items[number].path, value.reason))
            elif value.ndim == 2:
                tokens[number] = value.to(weight.device, weight.dtype)
            else:
                fresh.append((number, value))
        if fresh:
            made = self._decoder.image_tokens(torch.stack([pixels for _, pixels in fresh]))
            for (number, _), item_tokens in zip(fresh, made, strict=True):
                tokens[number] = item_tokens
                if self._cache is not None and items[number].sha256:
                    self._cache.put(items[number].sha256, item_tokens)
        numbers = sorted(tokens)
        return numbers, torch.stack([tokens[number] for number in numbers]) if numbers else torch.empty(0), errors

    def _null_tokens(self) -> Tensor:
        if self._null is None:
            size = self.loaded.spec.image_size
            self._null = self._decoder.image_tokens(torch.zeros(1, 3, size, size))
        return self._null


class TokenCache:
    """Image tokens on disk by the content they came from, in half precision."""

    def __init__(self, folder: Path, limit: int = CACHE_BYTES) -> None:
        self._files = DiskCache(folder, limit)

    def get(self, sha256: str) -> Tensor | None:
        """The tokens `(t, w) float16` of an image, if they are here and whole."""
        data = self._files.get(sha256) if sha256 else None
        if data is None:
            return None
        try:
            tokens: Tensor = load(data)["tokens"]
        except (SafetensorError, KeyError, ValueError):
            return None
        return tokens

    def put(self, sha256: str, tokens: Tensor) -> None:
        """Cache the tokens `(t, w)` of an image."""
        self._files.put(sha256, save({"tokens": tokens.half().cpu().contiguous()}))


def _fuse(cosines: Floats, second: Floats, weight: float, corrections: Floats) -> tuple[Floats, Floats]:
    """Fused and second scores; a candidate for which the model gave no finite score is one that was not read."""
    fused = cosines + weight * second + corrections
    read = np.isfinite(fused)
    return np.where(read, fused, cosines).astype(np.float32), np.where(read, second, np.nan).astype(np.float32)


def _spent(began: float, milliseconds: float | None) -> bool:
    return milliseconds is not None and 1000 * (time.monotonic() - began) >= milliseconds
