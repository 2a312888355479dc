"""The models with a caption decoder, which re-rank and write captions: found by name, each loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval.errors import ModelChoiceError
from retrieval.models.catalog import READER
from retrieval.models.query_encoder import QueryEncoder
from retrieval.models.weights import ModelFiles, cache_dir, has_decoder, is_cached, resolve
from retrieval.types import Rerank

if TYPE_CHECKING:
    from retrieval.crossmodal.rerank import Reranker
    from retrieval.models.loading import LoadedModel


class DecoderModels:
    """The models with a decoder that searches over one index use; `auto` is the index's own model, shared with its queries."""

    def __init__(self, queries: QueryEncoder, device: str) -> None:
        self._queries, self._device = queries, device
        self._loaded: tuple[str, LoadedModel] | None = None
        self._reranker: tuple[tuple[str, str], Reranker] | None = None

    def default_name(self, *, offline: bool = False) -> tuple[str, str | None]:
        """The model that re-ranks and captions by default: the index's own where it has a decoder, else the best at hand, with
        a line that says which. With `offline`, none is fetched for it."""
        return reading_model(self._queries.spec.name, offline=offline)

    def find(self, name: str) -> ModelFiles:
        """The files of a model with a decoder. Raises `ModelError` for one that has no decoder."""
        files = resolve(self._queries.spec.name if name == "auto" else name)
        if not has_decoder(files):
            raise ModelChoiceError(
                f"{files.name} has no decoder to re-rank with; name a reranker that has one: mini, or after "
                f"`mmsearch models pull {READER}` {READER}"
            )
        return files

    def load(self, name: str) -> LoadedModel:
        """A model with a decoder. Raises `ModelError`."""
        return self._load(self.find(name))

    def reranker(self, how: Rerank) -> Reranker:
        """The reranker and fusion that `how` names. Raises `ModelError`."""
        files = self.find(how.reranker)
        key = (files.name, how.fusion)
        if self._reranker is None or self._reranker[0] != key:
            from retrieval.crossmodal.rerank import Reranker, RerankFusion

            fusion = RerankFusion.of(files.folder, how.fusion)
            self._reranker = (key, Reranker(self._load(files), fusion, cache_dir() / "image-tokens"))
        return self._reranker[1]

    def is_index_model(self, name: str) -> bool:
        """Whether a name means the index's own model."""
        return name == "auto" or self.find(name).name == self._queries.spec.name

    def _load(self, files: ModelFiles) -> LoadedModel:
        if files.name == self._queries.spec.name:
            return self._queries.encoder.loaded
        if self._loaded is None or self._loaded[0] != files.name:
            from retrieval.models.loading import load_model

            self._loaded = (files.name, load_model(files, self._device))
        return self._loaded[1]


def reading_model(of_index: str, *, offline: bool) -> tuple[str, str | None]:
    """The model that re-ranks and captions by default for an index of the model `of_index`; see `DecoderModels.default_name`.
    Raises `ModelError`."""
    if has_decoder(resolve(of_index)):
        return "auto", None
    if offline:
        return (READER if is_cached(READER) else "mini"), None
    files = resolve("auto", READER)
    return files.name, files.notice
