"""Batches of a training run: captioned images, class images with their names in sentences, prototypes of classes, and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from retrieval.models.tokens import TextTokenizer
from training.data import CaptionedImages, LabelledImages, Statistics, augment
from training.teacher import Teacher

if TYPE_CHECKING:
    from training.fit import FitConfig

# What people write around the name of a thing. The first is what the teacher is asked for.
TEMPLATES = (
    "a photo of {}",
    "{}",
    "a picture of {}",
    "a close-up of {}",
    "there is {}",
    "a photo of {} outdoors",
    "{} in a room",
)


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """What an image tower that knows classes would see of each, `features (n, width)`, and the classes' names."""

    features: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a run learns from besides captioned images. The teacher's `classes` are `labelled`'s, then those of `prototypes`."""

    labelled: LabelledImages | None = None
    prototypes: Prototypes | None = None
    texts: tuple[str, ...] = ()

    def phrases(self) -> list[str]:
        """The sentence of each class that the teacher is asked for."""
        names = [*(self.labelled.names if self.labelled else ()), *(self.prototypes.names if self.prototypes else ())]
        return [TEMPLATES[0].format(with_article(name)) for name in names]


NOTHING = Beside()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`pixels (n, 3, s, s)`, `ids (n, length)`; the first `captioned` rows teach the decoder. Teacher goals `(n, t)`.

    `prototypes (p, width)` are features with `prototype_ids (p, length)`, `text_ids (m, length)` are texts without an image.
    """

    pixels: Tensor
    ids: Tensor
    captioned: int
    image_goal: Tensor | None = None
    text_goal: Tensor | None = None
    prototypes: Tensor | None = None
    prototype_ids: Tensor | None = None
    prototype_goal: Tensor | None = None
    text_ids: Tensor | None = None


def with_article(name: str) -> str:
    """A class's name as a sentence has it."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


class Feed:
    """Batches, each drawn from the seed and its step alone, so that a resumed run sees the same. With `shorten`, ids end where
    the longest text of a batch does."""

    def __init__(
        self,
        config: FitConfig,
        tokenizer: TextTokenizer,
        train: CaptionedImages,
        beside: Beside,
        teacher: Teacher | None,
        statistics: Statistics,
        device: str,
        shorten: bool,
    ) -> None:
        self._shorten = shorten
        self._config, self._train, self._beside, self._teacher = config, train, beside, teacher
        self._statistics, self._device, self._tokenizer = statistics, device, tokenizer
        self._means = teacher.images() if teacher is not None else None
        self._known = len(beside.labelled.names) if beside.labelled is not None else 0
        self.captioned = min(config.batch - config.labelled, len(train.captions))
        self.per_epoch = len(train.captions) // self.captioned

    def draw(self, step: int) -> Batch:
        """The batch of a step."""
        config, train, labelled, teacher = self._config, self._train, self._beside.labelled, self._teacher
        epoch, position = divmod(step, self.per_epoch)
        side = config.sides[epoch]
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.captions))
        rows = order[position * self.captioned : (position + 1) * self.captioned]
        draw = np.random.default_rng((config.seed, epoch, position))
        which = [int(draw.integers(len(train.captions[row]))) for row in rows]
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        how = {"min_area": config.smallest_crop, "statistics": self._statistics, "device": self._device}
        pixels = [augment(train.take(rows), side, rng, **how)]  # type: ignore[arg-type]
        texts = [train.captions[row][which_caption] for row, which_caption in zip(rows, which, strict=True)]
        labels = np.empty(0, np.int64)
        if labelled is not None and config.labelled:
            others = draw.choice(len(labelled.labels), config.labelled, replace=False)
            labels = labelled.labels[others]
            pixels.append(augment(labelled.images[others], side, rng, **how))  # type: ignore[arg-type]
            texts += [_in_sentence(labelled.names[label], draw) for label in labels]
        image_goal = text_goal = None
        if teacher is not None and self._means is not None:
            goals = [teacher.captions[row][which_caption] for row, which_caption in zip(rows, which, strict=True)]
            image_goal = self._goal([*self._means[rows], *teacher.classes[labels]])
            text_goal = self._goal([*goals, *teacher.classes[labels]])
        prototypes, prototype_ids, prototype_goal = self._classes(draw)
        alone = self._beside.texts
        return Batch(
            pixels=torch.cat(pixels).contiguous(memory_format=torch.channels_last),
            ids=self._ids(texts),
            captioned=len(rows),
            image_goal=image_goal,
            text_goal=text_goal,
            prototypes=prototypes,
            prototype_ids=prototype_ids,
            prototype_goal=prototype_goal,
            text_ids=self._ids([alone[number] for number in draw.integers(len(alone), size=config.texts)])
            if alone and config.texts
            else None,
        )

    def _classes(self, draw: np.random.Generator) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        prototypes, count = self._beside.prototypes, self._config.prototypes
        if prototypes is None or not count:
            return None, None, None
        chosen = draw.choice(len(prototypes.names), count, replace=False)
        ids = self._ids([_in_sentence(prototypes.names[number], draw) for number in chosen])
        goal = self._goal(list(self._teacher.classes[self._known + chosen])) if self._teacher is not None else None
        return prototypes.features[torch.from_numpy(chosen)].to(self._device), ids, goal

    def _ids(self, texts: list[str]) -> Tensor:
        """Token ids; as long as the longest, where the model takes them so."""
        ids = self._tokenizer.encode(texts)
        if self._shorten:
            ids = ids[:, : np.flatnonzero((ids != self._tokenizer.rules.pad).any(0))[-1] + 1]
        return torch.from_numpy(ids).to(self._device)

    def _goal(self, rows: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self._device)


def _in_sentence(name: str, draw: np.random.Generator) -> str:
    return TEMPLATES[int(draw.integers(len(TEMPLATES)))].format(with_article(name))
