"""A model's preprocessing in Pillow and numpy: the pixels of open_clip's own transform, bit for bit, at a fifth of its cost.

torchvision's ToTensor and Normalize start a team of threads for each image; on decoding threads beside a busy model those
teams fight for the same cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from retrieval.types import ModelSpec

_MODES = ("shortest", "squash")


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """What of open_clip's `PreprocessCfg` a plain model has; `size` in pixels."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str


def is_plain(config: Any) -> bool:
    """Whether a model sees a square that is cropped from the shorter side, or squashed: what `image_pixels` makes. `config` is
    an open_clip `PreprocessCfg`."""
    return config.resize_mode in _MODES and (isinstance(config.size, int) or config.size[0] == config.size[1])


def preprocessing(config: Any) -> Callable[[Image], torch.Tensor]:
    """From an open_clip `PreprocessCfg` to a function from a PIL image to `(3, s, s) float32`, normalised.

    Shapes and modes that are not plain keep open_clip's transform.
    """
    import torch

    if not is_plain(config):
        from open_clip.transform import image_transform_v2

        transform: Callable[[Image], torch.Tensor] = image_transform_v2(config, is_train=False)
        return transform
    size = config.size if isinstance(config.size, int) else config.size[0]
    run = _pixels(size, config.mean, config.std, config.interpolation, config.resize_mode)
    return lambda image: torch.from_numpy(run(image))


def image_pixels(spec: ModelSpec) -> Callable[[Image], NDArray[np.float32]]:
    """The same for a plain model from what an index knows of it, without torch: a PIL image to `(3, s, s) float32`."""
    return _pixels(spec.image_size, spec.mean, spec.std, spec.interpolation, spec.resize_mode)


def _pixels(
    size: int, mean: Sequence[float], std: Sequence[float], interpolation: str, mode: str
) -> Callable[[Image], NDArray[np.float32]]:
    from PIL import Image as pillow

    resample = pillow.Resampling.BILINEAR if interpolation == "bilinear" else pillow.Resampling.BICUBIC
    means = np.asarray(mean, np.float32).reshape(3, 1, 1)
    deviations = np.asarray(std, np.float32).reshape(3, 1, 1)
    squash = mode == "squash"

    def run(image: Image) -> NDArray[np.float32]:
        image = _resized(image, size, squash, resample)
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)
        out = np.empty((3, size, size), np.float32)
        np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
        out -= means
        out /= deviations
        return out

    return run


def _resized(image: Image, size: int, squash: bool, resample: Any) -> Image:
    """The square that the model sees, with torchvision's rounding of sides and of the crop's corner."""
    if squash:
        return image if image.size == (size, size) else image.resize((size, size), resample)
    width, height = image.size
    if min(width, height) != size:
        long = int(size * max(width, height) / min(width, height))
        width, height = (size, long) if width <= height else (long, size)
        image = image.resize((width, height), resample)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
