"""Small CoCas of both kinds, with weights so large that they have strong opinions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from retrieval.models.convcoca import ConvCoCa, ConvCoCaConfig
from retrieval.models.efficientnet import EfficientNetConfig
from retrieval.models.loading import LoadedModel
from retrieval.models.minilm import MiniLMConfig
from retrieval.models.tokens import TextTokenizer, TokenRules
from tests.stores import spec

SENTENCES = ["a dog runs on the grass", "two children play in the snow", "a man rides a red bike past a wall"]


def small_sizes(vocabulary: int, length: int = 16, decoder_layers: int = 2) -> ConvCoCaConfig:
    """An architecture like `mini`'s, as small as can be."""
    stages = ((1, 3, 2, 1, 8), (2, 3, 2, 2, 16), (1, 5, 2, 2, 16))
    sentence = MiniLMConfig(vocab_size=vocabulary, context_length=length, width=32, heads=4, layers=2, inner=64)
    return ConvCoCaConfig(
        embed_dim=16, image_size=32, image=EfficientNetConfig(stem=8, stages=stages, width=32), sentence=sentence, hidden=32,
        decoder_vocab=vocabulary, decoder_width=32, decoder_heads=4, reading_layers=2, decoder_layers=decoder_layers,
    )  # fmt: skip


def train_tokenizer(sentences: Sequence[str], size: int, length: int) -> TextTokenizer:
    """Byte pairs of some sentences; ids 0, 1 and 2 are padding, start and end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(sentences, trainer)
    return TextTokenizer(TokenRules(name="small-bpe", clean="lower", length=length, prefix=(1,), suffix=(2,)), model)


def conv_coca(vocabulary: int) -> Any:
    return ConvCoCa(small_sizes(vocabulary))


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
        if hasattr(model.text, "cls_emb"):
            model.text.cls_emb.normal_(0, 0.1)
    return LoadedModel(spec(), model.eval(), _to_pixels, tokenizer, "cpu", "fp32", False)


def _to_pixels(image: Image) -> Tensor:
    pixels = np.asarray(image.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255
    return torch.from_numpy(pixels.copy())
