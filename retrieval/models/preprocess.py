"""A model's preprocessing in Pillow and numpy: the pixels of open_clip's own transform, bit for bit, at a fifth of its cost.

torchvision's ToTensor and Normalize start a team of threads for each image; on decoding threads beside a busy model those
teams fight for the same cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def preprocessing(config: Any) -> Callable[[Image], torch.Tensor]:
    """From an open_clip `PreprocessCfg` to a function from a PIL image to `(3, s, s) float32`, normalised.

    Shapes and modes other than a square that is cropped from the shorter side, or squashed, keep open_clip's transform.
    """
    import torch
    from open_clip.transform import image_transform_v2
    from PIL import Image as pillow

    size = config.size if isinstance(config.size, int) else config.size[0] if config.size[0] == config.size[1] else 0
    if not size or config.resize_mode not in ("shortest", "squash"):
        transform: Callable[[Image], torch.Tensor] = image_transform_v2(config, is_train=False)
        return transform
    resample = pillow.Resampling.BILINEAR if config.interpolation == "bilinear" else pillow.Resampling.BICUBIC
    mean = np.asarray(config.mean, np.float32).reshape(3, 1, 1)
    std = np.asarray(config.std, np.float32).reshape(3, 1, 1)
    squash = config.resize_mode == "squash"

    def run(image: Image) -> torch.Tensor:
        image = _resized(image, size, squash, resample)
        pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)
        out = np.empty((3, size, size), np.float32)
        np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
        out -= mean
        out /= std
        return torch.from_numpy(out)

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
