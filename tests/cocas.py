"""Small CoCas of both kinds, with weights so large that they have strong opinions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from retrieval.models.convcoca import ConvCoCa, ConvCoCaConfig
from retrieval.models.loading import LoadedModel
from tests.stores import spec
from training.vocabulary import train_tokenizer

SENTENCES = ["a dog runs on the grass", "two children play in the snow", "a man rides a red bike past a wall"]


def conv_coca(vocabulary: int) -> Any:
    sizes = ConvCoCaConfig(
        embed_dim=16, image_size=32, stem=8, blocks=(1, 1, 1), token_width=32, vocab_size=vocabulary,
        context_length=16, text_width=32, text_heads=4, text_layers=2, decoder_layers=2,
    )  # fmt: skip
    return ConvCoCa(sizes)


def open_coca(vocabulary: int) -> Any:
    from open_clip.coca_model import CoCa

    text = {"context_length": 16, "vocab_size": vocabulary, "width": 32, "heads": 4, "layers": 2,
            "embed_cls": True, "output_tokens": True}  # fmt: skip
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8, "attentional_pool": True,
              "attn_pooler_heads": 4, "output_tokens": True}  # fmt: skip
    decoder = {"context_length": 16, "vocab_size": vocabulary, "width": 32, "heads": 4, "layers": 2,
               "attn_pooler_heads": 4}  # fmt: skip
    return CoCa(32, decoder, text, vision)


def loaded_coca(make: Callable[[int], Any]) -> LoadedModel:
    """A model with its tokenizer, whose pixels are the image's own, in 0..1."""
    tokenizer = train_tokenizer(SENTENCES, 300, 16)
    torch.manual_seed(5)
    model = make(300)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.25)
            elif "bias" in name:
                weight.normal_(0, 0.1)
        model.text.cls_emb.normal_(0, 0.1)
    return LoadedModel(spec(), model.eval(), _to_pixels, tokenizer, "cpu", "fp32", False)


def _to_pixels(image: Image) -> Tensor:
    pixels = np.asarray(image.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(pixels.copy())
