"""Re-ranking: a model that looks at words and pixels together orders again what the dual encoders found.

A CoCa's decoder reads the words and attends from each to the image's tokens, softmax(QKᵀ/√d)V; how likely it then finds
those words is the second score, g(text, image) = log P(text | image) / tokens, in nats.

It joins the first stage's cosine c in a weighted sum, less a share of what the text scores by itself:

    r = g(text, image) − λ · g(text, null image)          higher is better
    s = c + v · r

The null image is a plain one of the mean colour. ImageSource are ordered by a text with λ = 1: r is then 0 for an image that
says nothing of the text, so one that could not be read keeps its cosine as a neutral score, and no score depends on which
other candidates there were. Texts are ordered by a picture with a λ and a v of their own: with λ = 0 a decoder prefers
common sentences to fitting ones. All three are fitted on held-out pairs and stored with the model.

The fusions `attention` and `concat` add a trained head's correction to the sum when pictures are ordered by a text
(`retrieval.crossmodal.heads`).
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.heads import check_head, load_head
from retrieval.errors import MediaError, QueryError
from retrieval.types import WEIGHTED, Hit

if TYPE_CHECKING:
    from PIL.Image import Image

    from media.reader import ImageSource
    from retrieval.models.loading import LoadedModel

# What a search does where nothing was fitted: a nat a token weighs as much as this much cosine.
UNFITTED_WEIGHT = 0.05
CACHE_BYTES = 512 * 1024**2
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """`weight` is v for pictures by a text; `text_weight` is v, and `null_share` λ, for texts by a picture. `name` is
    `weighted`, or the head of the model in `folder` that corrects the sum."""

    weight: float = UNFITTED_WEIGHT
    text_weight: float = UNFITTED_WEIGHT
    null_share: float = 1.0
    name: str = WEIGHTED
    folder: Path | None = None

    @staticmethod
    def of(folder: Path | None, name: str = WEIGHTED) -> Fusion:
        """What was fitted for the model in `folder`, or the weights for a model of which nothing is known.

        Raises `ModelError` for a fusion that this model has no head for.
        """
        if name != WEIGHTED:
            check_head(folder, name)
        fusion = Fusion(name=name, folder=folder)
        file = folder / "reader.json" if folder is not None else None
        if file is None or not file.is_file():
            return fusion
        value = json.loads(file.read_text("utf-8"))["weighted"]
        return replace(
            fusion,
            weight=float(value["weight"]),
            text_weight=float(value["text_weight"]),
            null_share=float(value["null_share"]),
        )


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """`hits` best first. `seen` candidates were read; `unreadable` are those whose picture is gone or damaged, each with
    the reason. `out_of_time` says that the budget left the rest out, `text_cut` that the text was longer than the reader
    reads."""

    hits: list[Hit]
    seen: int
    unreadable: tuple[tuple[str, str], ...]
    out_of_time: bool
    text_cut: bool


class Reranker:
    """Orders hits again, pictures by a text or texts by a picture. Raises `ModelError` for a model that has no decoder."""

    def __init__(self, loaded: LoadedModel, fusion: Fusion, cache: Path | None = None) -> None:
        self.loaded = loaded
        self._decoder = CaptionDecoder(loaded)
        self._fusion = fusion
        self._cache = TokenCache(cache / loaded.spec.weights_sha256[:32]) if cache is not None else None
        self._null: Tensor | None = None
        self._head = None
        if fusion.name != WEIGHTED:
            self._head = load_head(fusion.folder, fusion.name, next(loaded.model.parameters()))

    def rerank(
        self,
        text: str,
        hits: Sequence[Hit],
        pictures: ImageSource,
        milliseconds: float | None = None,
    ) -> Reranked:
        """Read the picture of each hit, in their order and at most for `milliseconds`, and sort by the fused score.

        `pictures` is asked from several threads. A hit that is not
        read keeps its first-stage score, its `rerank_score` None. Raises `QueryError` for an empty text.
        """
        if not text.strip():
            raise QueryError("re-ranking needs words; give some, or leave --rerank out")
        began = time.monotonic()
        ids = torch.from_numpy(self.loaded.tokenizer.encode([text]))
        prior = float(self._decoder.log_probabilities(self._null_tokens(), ids)[0])
        out: list[Hit] = []
        unreadable: list[tuple[str, str]] = []
        for part, tokens, errors in self._read(hits, pictures):
            unreadable += errors
            read = [hit for hit in part if hit.item.id in tokens]
            scores: dict[str, tuple[float, float]] = {}
            if read:
                stacked = torch.stack([tokens[hit.item.id] for hit in read])
                second = self._decoder.log_probabilities(stacked, ids) - prior
                fixes = self._corrections(ids, stacked, read, second)
                scores = {
                    hit.item.id: one for hit, one in zip(read, zip(second.tolist(), fixes, strict=True), strict=True)
                }
            out += [
                self._fuse(hit, scores[hit.item.id][0], self._fusion.weight, scores[hit.item.id][1])
                if hit.item.id in scores
                else hit
                for hit in part
            ]
            if milliseconds is not None and 1000 * (time.monotonic() - began) >= milliseconds:
                break
        if self._cache is not None:
            self._cache.trim()
        return self._ordered(hits, out, unreadable, not self.loaded.tokenizer.fits(text))

    def rerank_texts(self, images: Sequence[Image], hits: Sequence[Hit], milliseconds: float | None = None) -> Reranked:
        """The same the other way round: passages and captions, ordered again by how likely each is for the images, on
        average. Here λ matters most: without it the commonest sentence would win for every picture.
        """
        began = time.monotonic()
        tokens = self._decoder.image_tokens(torch.stack([self.loaded.preprocess(image) for image in images]))
        out: list[Hit] = []
        for start in range(0, len(hits), 4 * _BATCH):
            part = hits[start : start + 4 * _BATCH]
            ids = torch.from_numpy(self.loaded.tokenizer.encode([hit.item.text or "" for hit in part]))
            priors = self._decoder.log_probabilities(self._null_tokens(), ids)
            likely = torch.stack([self._decoder.log_probabilities(one[None], ids) for one in tokens]).mean(0)
            scores = likely - self._fusion.null_share * priors
            out += [
                self._fuse(hit, second, self._fusion.text_weight)
                for hit, second in zip(part, scores.tolist(), strict=True)
            ]
            if milliseconds is not None and 1000 * (time.monotonic() - began) >= milliseconds:
                break
        return self._ordered(hits, out, [], False)

    def _corrections(self, ids: Tensor, tokens: Tensor, read: Sequence[Hit], second: Tensor) -> list[float]:
        """What the head adds to each hit's sum; nothing for the weighted fusion."""
        if self._head is None:
            return [0.0] * len(read)
        cosine = torch.tensor([hit.first_stage_score for hit in read], device=tokens.device)
        with torch.inference_mode():
            found: Tensor = self._head(*self._decoder.words(ids), tokens, cosine, second)
        return found.tolist()

    def _fuse(self, hit: Hit, second: float, weight: float, correction: float = 0.0) -> Hit:
        """The hit with both scores; as it was when the model gave no finite one."""
        if not math.isfinite(second + correction):
            return hit
        return replace(hit, score=hit.first_stage_score + weight * second + correction, rerank_score=second)

    def _ordered(
        self, hits: Sequence[Hit], out: list[Hit], unreadable: Sequence[tuple[str, str]], text_cut: bool
    ) -> Reranked:
        whole = [*out, *hits[len(out) :]]
        order = sorted(whole, key=lambda hit: (-hit.score, hit.rank))
        return Reranked(
            hits=[replace(hit, rank=rank) for rank, hit in enumerate(order, 1)],
            seen=sum(hit.rerank_score is not None for hit in whole),
            unreadable=tuple(unreadable),
            out_of_time=len(out) < len(hits),
            text_cut=text_cut,
        )

    def _read(
        self, hits: Sequence[Hit], pictures: ImageSource
    ) -> Iterator[tuple[Sequence[Hit], dict[str, Tensor], list[tuple[str, str]]]]:
        """Some hits at a time with their image tokens, decoded on threads one part ahead of the model."""

        def prepare(hit: Hit) -> Tensor | MediaError:
            kept = self._cache.get(hit.item.sha256) if self._cache is not None else None
            if kept is not None:
                return kept
            try:
                return self.loaded.preprocess(pictures.picture(hit.item.place))
            except MediaError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="rerank") as pool:
            parts = [hits[start : start + _BATCH] for start in range(0, len(hits), _BATCH)]
            ahead = [pool.submit(prepare, hit) for hit in parts[0]] if parts else []
            for number, part in enumerate(parts):
                ready = [waiting.result() for waiting in ahead]
                ahead = [pool.submit(prepare, hit) for hit in parts[number + 1]] if number + 1 < len(parts) else []
                try:
                    yield part, *self._tokens(part, ready)
                except GeneratorExit:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    def _tokens(
        self, part: Sequence[Hit], ready: Sequence[Tensor | MediaError]
    ) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
        tokens: dict[str, Tensor] = {}
        fresh: list[tuple[Hit, Tensor]] = []
        errors: list[tuple[str, str]] = []
        weight = next(self.loaded.model.parameters())
        for hit, value in zip(part, ready, strict=True):
            if isinstance(value, MediaError):
                errors.append((hit.item.path, value.reason))
            elif value.ndim == 2:
                tokens[hit.item.id] = value.to(weight.device, weight.dtype)
            else:
                fresh.append((hit, value))
        if fresh:
            made = self._decoder.image_tokens(torch.stack([pixels for _, pixels in fresh]))
            for (hit, _), one in zip(fresh, made, strict=True):
                tokens[hit.item.id] = one
                if self._cache is not None and hit.item.sha256:
                    self._cache.put(hit.item.sha256, one)
        return tokens, errors

    def _null_tokens(self) -> Tensor:
        if self._null is None:
            size = self.loaded.spec.image_size
            self._null = self._decoder.image_tokens(torch.zeros(1, 3, size, size))
        return self._null


class TokenCache:
    """Image tokens on disk by the content they came from, in half precision; the oldest go when there are too many."""

    def __init__(self, folder: Path, limit: int = CACHE_BYTES) -> None:
        self._folder = folder
        self._limit = limit
        self._grown = False

    def get(self, sha256: str) -> Tensor | None:
        """The tokens `(t, w) float16` of a picture, if they are here and whole."""
        file = self._folder / f"{sha256}.safetensors"
        try:
            found: Tensor = load(file.read_bytes())["tokens"]
            os.utime(file)
        except (OSError, SafetensorError, KeyError):
            return None
        return found

    def put(self, sha256: str, tokens: Tensor) -> None:
        """Keep `(t, w)`; a cache that cannot be written costs only time, so a full disk is no error here."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / f"{sha256}.safetensors"
            scratch = file.with_suffix(f".{threading.get_ident()}.partial")
            scratch.write_bytes(save({"tokens": tokens.half().cpu().contiguous()}))
            os.replace(scratch, file)
        except OSError:
            return
        self._grown = True

    def trim(self) -> None:
        """Delete what was used longest ago until the rest takes nine tenths of the limit; only after something was put."""
        if not self._grown:
            return
        self._grown = False
        files = []
        for file in self._folder.glob("*.safetensors"):
            try:
                stat = file.stat()
            except OSError:
                continue
            files.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in files)
        if total <= self._limit:
            return
        for _, size, file in sorted(files):
            file.unlink(missing_ok=True)
            total -= size
            if total <= 0.9 * self._limit:
                return
