"""The embeddings of a vocabulary, which are most of many text towers: kept in half precision in a file of their own, which is
mapped, so that a text reads the rows of its own words; the exported graph is given those.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError

if TYPE_CHECKING:
    import torch

_FILE = "words.npy"


class WordTable:
    """Ids `(n, length) int64` to the embeddings of their words, `(n, length, width) float32`."""

    def __init__(self, rows: NDArray[np.float16]) -> None:
        self._rows = rows

    @staticmethod
    def open(folder: Path) -> WordTable | None:
        """The table in a folder, mapped; None for a tower that looks its words up itself. Raises `ModelError`."""
        file = folder / _FILE
        try:
            return WordTable(np.load(file, mmap_mode="r", allow_pickle=False)) if file.is_file() else None
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: cannot read the words of a text tower: {error}") from error

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of some words."""
        return self._rows[ids].astype(np.float32)


def save_words(embedding: torch.nn.Embedding, folder: Path, beside: Path) -> None:
    """Write the table of an embedding into a folder; `beside` is a folder that may have the same one already."""
    try:
        os.link(beside / _FILE, folder / _FILE)
    except OSError:
        np.save(folder / _FILE, embedding.weight.detach().half().numpy(), allow_pickle=False)


def word_embedding(model: Any, ids: torch.Tensor) -> torch.nn.Embedding | None:
    """What looks up the words of a model's texts; None where that is not one plain look-up of their ids `(n, length)`."""
    import torch

    seen: list[torch.nn.Embedding] = []

    def note(module: torch.nn.Embedding, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].shape == ids.shape and torch.equal(given[0], ids):
            seen.append(module)

    plain = [module for module in model.modules() if type(module) is torch.nn.Embedding]
    hooks = [module.register_forward_pre_hook(note) for module in plain]
    try:
        model.encode_text(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0] if len(seen) == 1 else None


def text_module(model: Any, embedding: torch.nn.Embedding | None) -> torch.nn.Module:
    """The text tower as a module for export: ids `(n, length)`, and with an `embedding` the rows of their words as well, to
    unit rows `(n, d)`."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: torch.Tensor, words: torch.Tensor | None = None) -> torch.Tensor:
            if embedding is None or words is None:
                return torch.nn.functional.normalize(self.inner.encode_text(ids), dim=-1)
            hook = embedding.register_forward_hook(lambda *_: words)
            try:
                return torch.nn.functional.normalize(self.inner.encode_text(ids), dim=-1)
            finally:
                hook.remove()

    return Tower().eval()
