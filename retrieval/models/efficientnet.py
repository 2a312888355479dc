"""EfficientNet-Lite, an image tower that runs well on a CPU: inverted residuals with ReLU6, no squeeze and no swish.

Source: Tan and Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, 2019, with the changes of its
Lite variants (Liu, *Higher accuracy on vision models with EfficientNet-Lite*, 2020). Padding and batch norm are TensorFlow's,
so that weights trained there give the same features (a test holds them beside timm's `tf_efficientnet_lite2`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of TensorFlow's batch norm.
_EPSILON = 1e-3


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Stages as `(repeats, kernel, stride, expansion, width)`; the numbers are EfficientNet-Lite2's."""

    stem: int = 32
    stages: tuple[tuple[int, int, int, int, int], ...] = (
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 48),
        (4, 3, 2, 6, 88),
        (4, 5, 1, 6, 120),
        (5, 5, 2, 6, 208),
        (1, 3, 1, 6, 352),
    )
    width: int = 1280


class ConvNorm(nn.Module):
    """A convolution with batch norm, or, `folded`, with a bias that says the same."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, groups: int, folded: bool) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv2d(inside, outside, kernel, stride, groups=groups, bias=folded)
        self.norm = None if folded else nn.BatchNorm2d(outside, _EPSILON)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inside, h, w)` to `(n, outside, ⌈h / stride⌉, ⌈w / stride⌉)`."""
        x = self.conv(self._padded(x))
        return x if self.norm is None else self.norm(x)

    def folded(self) -> dict[str, Tensor]:
        """Weight and bias of the convolution that does both."""
        norm = self.norm
        if norm is None:
            assert self.conv.bias is not None
            return {"conv.weight": self.conv.weight, "conv.bias": self.conv.bias}
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return {
            "conv.weight": self.conv.weight * scale[:, None, None, None],
            "conv.bias": norm.bias - norm.running_mean * scale,
        }

    def _padded(self, x: Tensor) -> Tensor:
        """What TensorFlow calls `SAME`: an odd pixel goes to the right and to the bottom."""
        if self.kernel == 1:
            return x
        sides = []
        for length in (int(x.shape[3]), int(x.shape[2])):
            missing = max((-(-length // self.stride) - 1) * self.stride + self.kernel - length, 0)
            sides += [missing // 2, missing - missing // 2]
        return F.pad(x, sides)


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, narrow; beside a shortcut where the shape stays (Sandler et al., 2018)."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int, folded: bool) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = ConvNorm(inside, wide, 1, 1, 1, folded) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, wide, folded)
        self.project = ConvNorm(wide, outside, 1, 1, 1, folded)
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """`(n, inside, h, w)` to `(n, outside, h', w')`."""
        inner: Tensor = x if self.expand is None else F.relu6(self.expand(x))
        inner = self.project(F.relu6(self.depthwise(inner)))
        return x + inner if self.shortcut else inner


class EfficientNet(nn.Module):
    """Pixels `(n, 3, s, s)`, in −1..1, to the last feature grid `(n, width, s / 32, s / 32)`, not negative.

    `frozen` is how many of its parts, the stem, the stages and the head, are not trained.
    """

    def __init__(self, config: EfficientNetConfig, *, folded: bool = True) -> None:
        super().__init__()
        self.frozen = 0
        self.stem = ConvNorm(3, config.stem, 3, 2, 1, folded)
        stages, inside = [], config.stem
        for repeats, kernel, stride, expansion, width in config.stages:
            blocks = []
            for number in range(repeats):
                blocks.append(InvertedResidual(inside, width, kernel, 1 if number else stride, expansion, folded))
                inside = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = ConvNorm(inside, config.width, 1, 1, 1, folded)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for number, part in enumerate((self.stem, *self.stages, self.head)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen):
                x = part(x) if isinstance(part, nn.Sequential) else F.relu6(part(x))
        return x

    def train(self, mode: bool = True) -> EfficientNet:
        """As of any module, but the statistics of batch norms stay: they are of a million pictures, and a batch is small."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def folded_state(model: EfficientNet) -> dict[str, Tensor]:
    """The state of the same network, folded."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, ConvNorm)
        for key, value in module.folded().items()
    }
