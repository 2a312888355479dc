"""The tokenizer of `mini`: byte-level BPE over lower-case words, trained on the captions."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from retrieval.models.tokens import TextTokenizer, TokenRules, clean

PAD, START, END = "<pad>", "<s>", "</s>"


def train_tokenizer(captions: Iterable[str], size: int, length: int) -> TextTokenizer:
    """A tokenizer of at most `size` entries; ids 0, 1 and 2 are padding, start and end. Same captions, same result."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((clean(caption, "lower") for caption in captions), trainer)
    rules = TokenRules(name="mini-bpe", clean="lower", length=length, prefix=(1,), suffix=(2,))
    return TextTokenizer(rules, model)
