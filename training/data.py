"""Training data in memory: images as uint8 arrays, captions as lists, and augmentation on whole batches."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation that pixels are normalised with, per channel, of pixels in 0..1; by default
    those of `mini`, (x − 127) / 128 of pixels in 0..255."""

    mean: tuple[float, float, float] = (127 / 255, 127 / 255, 127 / 255)
    std: tuple[float, float, float] = (128 / 255, 128 / 255, 128 / 255)


MINI = Statistics()
# One in so many of Caltech-101's photos is kept from training, to measure what a model knows of classes.
_HELD_OUT = 5


class DataError(Exception):
    """A training file is missing or is not what the recipe expects."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """`images (n, s, s, 3) uint8`, `labels (n,) int64`, and the name of each class."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """`images (n, s, s, 3) uint8`, and each image's captions. With `rows`, the set is those rows of a larger array."""

    images: NDArray[np.uint8]
    captions: tuple[tuple[str, ...], ...]
    rows: NDArray[np.int64] | None = None

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images with these numbers, `(m, s, s, 3) uint8`; of a mapped array only they are read."""
        return np.asarray(self.images[numbers if self.rows is None else self.rows[numbers]])


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> dict[str, list[object]]:
    """The named columns of some Parquet files, one after the other; `DataError` names what is missing."""
    values: dict[str, list[object]] = {name: [] for name in columns}
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a Parquet table with the columns {', '.join(columns)}")
        try:
            table = pq.read_table(file, columns=list(columns))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{file}: expected the columns {', '.join(columns)}: {error}") from error
        for name in columns:
            if name not in table.column_names:
                raise DataError(f"{file}: has no column {name}; expected {', '.join(columns)}")
            values[name].extend(table.column(name).to_pylist())
    return values


def read_images(file: Path) -> tuple[list[Image.Image], list[list[str]]]:
    """The images of a captioned table at their own size, and each image's captions."""
    columns = read_columns([file], ("image", "captions"))
    images = [Image.open(io.BytesIO(blob)).convert("RGB") for blob in columns["image"] if isinstance(blob, bytes)]
    captions = [[str(caption) for caption in many] for many in columns["captions"] if isinstance(many, list)]
    return images, captions


def decode_square(blobs: Sequence[bytes], side: int) -> NDArray[np.uint8]:
    """Encoded images to `(n, side, side, 3) uint8`, resized where they have another size."""
    out = np.empty((len(blobs), side, side, 3), np.uint8)
    for row, blob in enumerate(blobs):
        with Image.open(io.BytesIO(blob)) as image:
            rgb = image.convert("RGB")
            if rgb.size != (side, side):
                rgb = rgb.resize((side, side), Image.Resampling.BICUBIC)
            out[row] = np.asarray(rgb)
    return out


def load_labelled(
    files: Sequence[Path], side: int, held_out: Callable[[str, str], bool] = lambda _source, _image: False
) -> tuple[LabelledImages, LabelledImages]:
    """Images with class names, and those of them that `held_out` keeps from training, by their source and id."""
    columns = read_columns(files, ("image", "label", "source", "image_id"))
    texts = [str(label) for label in columns["label"]]
    names = tuple(sorted(set(texts)))
    number_of = {name: number for number, name in enumerate(names)}
    blobs = [blob for blob in columns["image"] if isinstance(blob, bytes)]
    images = decode_square(blobs, side)
    labels = np.array([number_of[text] for text in texts], np.int64)
    held = np.array(
        [
            held_out(str(source), str(image))
            for source, image in zip(columns["source"], columns["image_id"], strict=True)
        ]
    )
    parts = (LabelledImages(images=images[rows], labels=labels[rows], names=names) for rows in (~held, held))
    return next(parts), next(parts)


def held_out(source: str, image: str) -> bool:
    """Whether a labelled photo is kept from the training of `mini`: about one in five of Caltech-101."""
    return source == "caltech101" and hashlib.sha256(image.encode()).digest()[0] % _HELD_OUT == 0


def load_captioned(file: Path, side: int) -> CaptionedImages:
    """Images with their lists of captions."""
    columns = read_columns([file], ("image", "captions"))
    blobs = [blob for blob in columns["image"] if isinstance(blob, bytes)]
    captions = tuple(tuple(str(caption) for caption in many) for many in columns["captions"] if isinstance(many, list))
    return CaptionedImages(images=decode_square(blobs, side), captions=captions)


def joined(sets: Sequence[CaptionedImages]) -> CaptionedImages:
    """Several sets of one size as one."""
    return CaptionedImages(
        images=np.concatenate([part.images for part in sets]),
        captions=tuple(captions for part in sets for captions in part.captions),
    )


def normalise(images: NDArray[np.uint8], side: int, statistics: Statistics = MINI, device: str = "cpu") -> Tensor:
    """Whole images `(n, s, s, 3) uint8` to `(n, 3, side, side) float32`, resized and normalised."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        pixels.clamp_(0, 1)
    return _centre(pixels, statistics)


def augment(
    images: NDArray[np.uint8],
    side: int,
    rng: torch.Generator,
    min_area: float = 0.35,
    erase: float = 0.25,
    statistics: Statistics = MINI,
    device: str = "cpu",
) -> Tensor:
    """Random resized crop, flip, light rotation, colour and erasing: `(n, 3, side, side) float32`, normalised.

    `min_area` is the least share of the image's area that a crop keeps, `erase` the chance of a blanked rectangle.
    Chance is drawn on the CPU, so that a seed gives the same images on every device.
    """
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)
    count = pixels.shape[0]

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng).to(device)

    def uniform(low: float, high: float) -> Tensor:
        return draw(count) * (high - low) + low

    area, aspect = uniform(min_area, 1.0), torch.exp(uniform(-0.25, 0.25))
    half_w = torch.clamp(torch.sqrt(area * aspect), max=1.0)
    half_h = torch.clamp(torch.sqrt(area / aspect), max=1.0)
    flip = torch.where(draw(count) < 0.5, -1.0, 1.0)
    angle = uniform(-0.12, 0.12)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = half_w * flip * torch.cos(angle)
    theta[:, 0, 1] = -half_h * torch.sin(angle)
    theta[:, 1, 0] = half_w * flip * torch.sin(angle)
    theta[:, 1, 1] = half_h * torch.cos(angle)
    theta[:, 0, 2] = uniform(-1, 1) * (1 - half_w)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - half_h)
    # A crop that shrinks much would alias: average down first, so that the sampler sees about the output's size.
    if pixels.shape[-1] >= 2 * side:
        pixels = F.avg_pool2d(pixels, 2)
    grid = F.affine_grid(theta, [count, 3, side, side], align_corners=False)
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * uniform(0.6, 1.4)[:, None, None, None]
    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * uniform(0.7, 1.3)[:, None, None, None]
    pixels = pixels * uniform(0.75, 1.25)[:, None, None, None]
    pixels = pixels * (1 + (draw(count, 3, 1, 1) - 0.5) * 0.16)
    pixels = _centre(pixels.clamp_(0, 1), statistics)

    size = torch.randint(side // 6, side // 2, (count, 2), generator=rng)
    corner = torch.rand(count, 2, generator=rng)
    chosen = torch.rand(count, generator=rng) < erase
    for row in torch.nonzero(chosen).flatten().tolist():
        height, width = int(size[row, 0]), int(size[row, 1])
        top = int(corner[row, 0] * (side - height))
        left = int(corner[row, 1] * (side - width))
        pixels[row, :, top : top + height, left : left + width] = 0
    return pixels


def _centre(pixels: Tensor, statistics: Statistics) -> Tensor:
    mean = torch.tensor(statistics.mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(statistics.std, device=pixels.device).view(1, 3, 1, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
