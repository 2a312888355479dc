"""A CoCa whose image tower is a small residual ConvNet: the architecture of the embedded model `mini`.

The text tower and the cross-attending decoder compute what open_clip's own modules do (`retrieval.models.text_layers`), and the
calls are those of `open_clip.coca_model.CoCa` (`encode_image`, `encode_text`, `_encode_image`, `_encode_text`, `text_decoder`,
`logit_scale`), so whatever works on an open_clip CoCa works on this one. Only the image tower differs: at
three million parameters a plain ConvNet trains about four times faster on a CPU than a ViT of its size.

Source of the whole: Yu et al., *CoCa: Contrastive Captioners are Image-Text Foundation Models*, 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.models.text_layers import TextDecoder, TextTower


@dataclass(frozen=True, kw_only=True)
class ConvCoCaConfig:
    """Sizes of the model; the same keys stand in `mini/config.json`. Without decoder layers it is a dual encoder."""

    embed_dim: int = 256
    image_size: int = 128
    stem: int = 64
    blocks: tuple[int, ...] = (1, 2, 3)
    token_width: int = 512
    vocab_size: int = 8000
    context_length: int = 24
    text_width: int = 256
    text_heads: int = 4
    text_layers: int = 3
    decoder_layers: int = 3


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation around a shortcut (He et al., 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width, h, w)` in, the same shape out."""
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(x + self.norm2(self.conv2(inner)), inplace=True)


class ConvTower(nn.Module):
    """Images to one embedding and a grid of tokens, at stride 16.

    `(n, 3, s, s) float`, normalised pixels, to `(n, embed_dim)` (not normalised) and `(n, (s/16)², token_width)`.
    Fully convolutional: any `s` that is a multiple of 16 will do.
    """

    def __init__(self, config: ConvCoCaConfig) -> None:
        super().__init__()
        self.image_size = (config.image_size, config.image_size)
        width = config.stem
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, stride=4, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for stage, count in enumerate(config.blocks):
            if stage:
                layers += [
                    nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(2 * width),
                    nn.ReLU(inplace=True),
                ]
                width *= 2
            layers += [ResidualBlock(width) for _ in range(count)]
        layers += [
            nn.Conv2d(width, config.token_width, 1, bias=False),
            nn.BatchNorm2d(config.token_width),
            nn.ReLU(inplace=True),
        ]
        self.trunk = nn.Sequential(*layers)
        self.proj = nn.Linear(config.token_width, config.embed_dim, bias=False)
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def tokens(self, images: Tensor) -> Tensor:
        """`(n, 3, s, s)` to `(n, (s/16)², token_width)`, row by row from the top left."""
        grid: Tensor = self.trunk(images)
        return grid.flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.tokens(images)
        return self.proj(tokens.mean(dim=1)), tokens


class ConvCoCa(nn.Module):
    """Dual encoders and, where `decoder_layers` is not 0, a captioning decoder over one image tower."""

    def __init__(self, config: ConvCoCaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.embed_dim
        self.context_length = config.context_length
        self.pad_id = 0
        self.visual = ConvTower(config)
        self.text = TextTower(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.text_layers,
            output_dim=config.embed_dim,
            pad_id=self.pad_id,
        )
        self.image_to_decoder: nn.Module | None = None
        self.text_decoder: nn.Module | None = None
        if config.decoder_layers:
            self._add_decoder(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def _add_decoder(self, config: ConvCoCaConfig) -> None:
        self.image_to_decoder = nn.Sequential(
            nn.Linear(config.token_width, config.text_width), nn.LayerNorm(config.text_width)
        )
        self.text_decoder = TextDecoder(
            context_length=config.context_length,
            width=config.text_width,
            heads=config.text_heads,
            layers=config.decoder_layers,
            output_dim=config.vocab_size,
        )

    def _encode_image(self, images: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings `(n, embed_dim)` and the tokens that a decoder attends to, `(n, t, text_width)`."""
        latent, tokens = self.visual(images)
        if normalize:
            latent = F.normalize(latent, dim=-1)
        return latent, tokens if self.image_to_decoder is None else self.image_to_decoder(tokens)

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings `(n, embed_dim)` and token states `(n, length, text_width)` from ids `(n, length)`."""
        latent, tokens = self.text(text)
        return (F.normalize(latent, dim=-1) if normalize else latent), tokens

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """`(n, 3, s, s)` to `(n, embed_dim)`, unit rows when `normalize`."""
        latent, _ = self.visual(images)
        return F.normalize(latent, dim=-1) if normalize else latent

    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:
        """`(n, length)` int64 to `(n, embed_dim)`, unit rows when `normalize`."""
        return self._encode_text(text, normalize)[0]
