"""From a query to the direction that it means: words by the small exported text tower, images by the model's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError, QueryError
from retrieval.models.text_tower import TextTower
from retrieval.store.manifest import check_model
from retrieval.types import ModelSpec, Query

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.models.encoder import Encoder

# How much of a negative's direction is taken away from the query, both being unit vectors.
NEGATIVE_WEIGHT = 0.5
# Texts whose embeddings are kept: a few hundred kilobytes.
_REMEMBERED = 256

Floats = NDArray[np.float32]


class QueryEncoder:
    """The model that made an index, for queries: words need neither torch nor open_clip where its text tower was exported;
    images load the encoder, once."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self.spec = spec
        self._device = device
        self._tower: TextTower | None = None
        self._encoder: Encoder | None = None
        self._texts: dict[str, Floats] = {}

    def embed(self, query: Query, like: Floats, unlike: Floats) -> Floats:
        """The direction `(d,) float32` of a query, unit length.

        It is the sum of the unit vectors of its words, images and of the rows `like (n, d)`, less half of each negative's and
        of each of the rows `unlike (m, d)`; a term's counts by its weight. Raises `QueryError` where nothing is left.
        """
        weights = [1.0] if query.text is not None else [term.weight for term in query.terms]
        texts = [query.text] if query.text is not None else [term.text for term in query.terms]
        if any(not text.strip() for text in [*texts, *query.negatives]):
            raise QueryError("the query is empty; give it some words or an image")
        if query.words is None and not query.images and not len(like):
            raise QueryError("the query is empty; give it some words or an image")
        total = np.zeros(self.spec.dim, np.float32)
        if texts or query.negatives:
            words = self.embed_texts([*texts, *query.negatives])
            total += np.array(weights, np.float32) @ words[: len(texts)] - NEGATIVE_WEIGHT * words[len(texts) :].sum(0)
        for entry in query.images:
            total += self.embed_image(entry)
        total += like.sum(0) - NEGATIVE_WEIGHT * unlike.sum(0)
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            raise QueryError("the query cancels itself out: what is wanted and what is not are the same")
        return np.asarray(total / length, np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """`(n, d) float32`, unit rows. The last few hundred are remembered: one page more of hits costs no second pass."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._texts]
        rows = {text: self._texts[text] for text in texts if text in self._texts}
        if fresh:
            rows.update(zip(fresh, self._encode_texts(fresh), strict=True))
            self._texts.update((text, rows[text]) for text in fresh)
            for text in list(self._texts)[: max(0, len(self._texts) - _REMEMBERED)]:
                del self._texts[text]
        return np.stack([rows[text] for text in texts]) if texts else np.empty((0, self.spec.dim), np.float32)

    def embed_image(self, entry: Image | tuple[Image, ...]) -> Floats:
        """The unit vector `(d,)` of an image, or of a video's frames together."""
        total = self.encoder.encode_images(entry if isinstance(entry, tuple) else (entry,)).sum(0)
        return np.asarray(total / max(1e-9, float(np.linalg.norm(total))), np.float32)

    @property
    def encoder(self) -> Encoder:
        """The model's encoder, loaded now if it was not yet. Raises `ModelError`, also for weights that are not the index's."""
        if self._encoder is None:
            from retrieval.models.encoder import Encoder

            try:
                encoder = Encoder.load(self.spec.name, self._device)
            except ModelError as error:
                raise ModelError(f"this index needs its model {self.spec.name}: {error}") from error
            check_model(self.spec, encoder.spec)
            self._encoder = encoder
        return self._encoder

    def reads_whole(self, text: str) -> bool:
        """Whether the model reads all of a text, and does not cut its end."""
        tower = self._find_tower()
        return tower.tokenizer.fits(text) if tower is not None else self.encoder.fits(text)

    def _find_tower(self) -> TextTower | None:
        if self._tower is None and self._encoder is None:
            self._tower = TextTower.find(self.spec)
        return self._tower

    def _encode_texts(self, texts: Sequence[str]) -> Floats:
        # The exported tower even where the model is loaded: it is faster, and equal words must give equal answers.
        tower = self._find_tower()
        if tower is not None:
            return tower.encode_texts(texts)
        return self.encoder.encode_texts(texts)
