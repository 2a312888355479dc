"""The architecture of the embedded model `mini`: a CoCa whose image tower is a convolutional network and whose sentences are
embedded by a small BERT.

The calls are those of `open_clip.coca_model.CoCa` (`encode_image`, `encode_text`, `_encode_image`, `_encode_text`,
`text_decoder`, `logit_scale`), so whatever works on an open_clip CoCa works on this one. Two things differ. The image tower is
an EfficientNet-Lite, which costs a CPU a fifth of the smallest ViT. And a sentence is read twice: in both directions for its
embedding (`retrieval.models.minilm`), and looking back only, by layers of the decoder's width, for the decoder.

Source of the whole: Yu et al., *CoCa: Contrastive Captioners are Image-Text Foundation Models*, 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.models.efficientnet import EfficientNet, EfficientNetConfig
from retrieval.models.minilm import MiniLM, MiniLMConfig
from retrieval.models.text_layers import Blocks, KnownTokens, TextDecoder


@dataclass(frozen=True, kw_only=True)
class ConvCoCaConfig:
    """Sizes of the model; the same keys stand in `mini/config.json`. Without decoder layers it is a dual encoder.

    The decoder knows the first `decoder_vocab` tokens of the vocabulary; the others are one unknown token to it.
    """

    embed_dim: int = 256
    image_size: int = 192
    image: EfficientNetConfig = field(default_factory=EfficientNetConfig)
    sentence: MiniLMConfig = field(default_factory=MiniLMConfig)
    hidden: int = 512
    decoder_vocab: int = 8192
    decoder_width: int = 256
    decoder_heads: int = 4
    reading_layers: int = 2
    decoder_layers: int = 2

    @staticmethod
    def from_json(value: dict[str, Any]) -> ConvCoCaConfig:
        """What `dataclasses.asdict` gave. Raises `TypeError` and `KeyError` for what is no such thing."""
        stages = tuple(tuple(stage) for stage in value["image"]["stages"])
        image = EfficientNetConfig(**{**value["image"], "stages": stages})
        return ConvCoCaConfig(**{**value, "image": image, "sentence": MiniLMConfig(**value["sentence"])})


class Projection(nn.Module):
    """Features to an embedding: a linear map and a perceptron beside it, `(n, inside)` to `(n, outside)`."""

    def __init__(self, inside: int, hidden: int, outside: int) -> None:
        super().__init__()
        self.straight = nn.Linear(inside, outside, bias=False)
        self.widen, self.narrow = nn.Linear(inside, hidden), nn.Linear(hidden, outside, bias=False)
        # What the perceptron adds begins small.
        nn.init.normal_(self.narrow.weight, std=0.1 * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.straight(x) + self.narrow(F.gelu(self.widen(x)))
        return out


class ImageTower(nn.Module):
    """Images to one embedding and a grid of features, at stride 32.

    `(n, 3, s, s) float`, normalised pixels, to `(n, embed_dim)` (not normalised) and `(n, (s/32)², width)`.
    Fully convolutional: any `s` that is a multiple of 32 will do.
    """

    def __init__(self, config: ConvCoCaConfig, *, folded: bool) -> None:
        super().__init__()
        self.image_size = (config.image_size, config.image_size)
        self.trunk = EfficientNet(config.image, folded=folded)
        self.proj = Projection(config.image.width, config.hidden, config.embed_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grid: Tensor = self.trunk(images)
        return self.proj(grid.mean((2, 3))), grid.flatten(2).transpose(1, 2)


class TextTower(nn.Module):
    """Token ids to the embedding of the sentence, and to the states that the decoder goes on from."""

    def __init__(self, config: ConvCoCaConfig) -> None:
        super().__init__()
        self.context_length = config.sentence.context_length
        self.sentence = MiniLM(config.sentence)
        self.proj = Projection(config.sentence.width, config.hidden, config.embed_dim)
        # As open_clip calls the parts that a decoder reads with.
        width = config.decoder_width
        self.token_embedding = KnownTokens(config.decoder_vocab, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(self.context_length, width))
        self.transformer = Blocks(width, config.decoder_heads, config.reading_layers, self.context_length)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, length)` int64 to embeddings `(n, embed_dim)`, not normalised, and states `(n, length, decoder_width)`."""
        return self.proj(self.sentence(text)), self.states(text)

    def states(self, text: Tensor) -> Tensor:
        """Ids `(n, length)` to states `(n, length, decoder_width)`, each of what was read so far."""
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        states: Tensor = self.transformer(x)
        return states


class ConvCoCa(nn.Module):
    """Dual encoders and, where `decoder_layers` is not 0, a captioning decoder over one image tower. While it is trained, batch
    norms are of their own; `folded`, they are part of the convolutions, as in the stored weights."""

    def __init__(self, config: ConvCoCaConfig, *, folded: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = config.embed_dim
        self.context_length = config.sentence.context_length
        self.pad_id = 0
        self.visual = ImageTower(config, folded=folded)
        self.text = TextTower(config)
        self.image_to_decoder: nn.Module | None = None
        self.text_decoder: nn.Module | None = None
        if config.decoder_layers:
            width = config.decoder_width
            self.image_to_decoder = nn.Sequential(nn.Linear(config.image.width, width), nn.LayerNorm(width))
            self.text_decoder = TextDecoder(
                context_length=self.context_length,
                width=width,
                heads=config.decoder_heads,
                layers=config.decoder_layers,
                output_dim=config.decoder_vocab,
            )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def _encode_image(self, images: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings `(n, embed_dim)` and the tokens that a decoder attends to, `(n, t, decoder_width)`."""
        latent, tokens = self.visual(images)
        if normalize:
            latent = F.normalize(latent, dim=-1)
        return latent, tokens if self.image_to_decoder is None else self.image_to_decoder(tokens)

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings `(n, embed_dim)` and token states `(n, length, decoder_width)` from ids `(n, length)`."""
        latent, states = self.text(text)
        return (F.normalize(latent, dim=-1) if normalize else latent), states

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """`(n, 3, s, s)` to `(n, embed_dim)`, unit rows when `normalize`."""
        latent, _ = self.visual(images)
        return F.normalize(latent, dim=-1) if normalize else latent

    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:
        """`(n, length)` int64 to `(n, embed_dim)`, unit rows when `normalize`."""
        latent: Tensor = self.text.proj(self.text.sentence(text))
        return F.normalize(latent, dim=-1) if normalize else latent
