"""The vocabulary of `mini`: MiniLM's word pieces, those of the captions first, without those of other scripts.

The decoder's softmax is over the first pieces alone, so their order is that of how often captions need them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from retrieval.models.tokens import TextTokenizer, TokenRules, clean

# Ids 0 to 3: padding, what is unknown, start and end.
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# What a piece of a Western language is written in: ASCII and the letters of Latin-1.
_LAST_LETTER = 0xFF


def prune_tokenizer(
    source: Path, captions: Sequence[str], names: Sequence[str], size: int, decoder_size: int, length: int
) -> tuple[TextTokenizer, NDArray[np.int64]]:
    """A tokenizer of `size` word pieces of those in the file `source`, and which of its ids each new id was, `(size,) int64`.
    It knows the words of the captions and of the `names`.

    The first `decoder_size` are single letters and what the captions use most; the others are in their own order, which is
    about that of how frequent they are. Same captions, same result.
    """
    value = json.loads(source.read_text("utf-8"))
    model = tokenizers.Tokenizer.from_str(json.dumps({**value, "post_processor": None}))
    model.no_padding()
    model.no_truncation()
    counts: Counter[str] = Counter()
    for encoded in model.encode_batch([clean(caption, "lower") for caption in captions], add_special_tokens=False):
        counts.update(encoded.tokens)
    old: dict[str, int] = value["model"]["vocab"]
    usable = [
        piece
        for piece in sorted(old, key=old.__getitem__)
        if piece not in SPECIAL and not piece.startswith("[unused") and all(ord(c) <= _LAST_LETTER for c in piece)
    ]
    # Single letters always: whatever is not in the vocabulary is put together from them.
    letters = [piece for piece in usable if len(piece.removeprefix("##")) == 1]
    frequent = [piece for piece, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if piece not in SPECIAL]
    known = list(dict.fromkeys([*letters, *frequent]))[: decoder_size - len(SPECIAL)]
    pieces = [*SPECIAL, *dict.fromkeys([*known, *frequent, *usable])][:size]
    value["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    value.update(post_processor=None, truncation=None, padding=None, added_tokens=[])
    built = tokenizers.Tokenizer.from_str(json.dumps(value))
    rules = TokenRules(name="mini-wordpiece", clean="lower", length=length, prefix=(2,), suffix=(3,))
    words = {word for text in (*captions, *names) for word in re.findall(r"[a-z]{3,}", clean(text, "lower"))}
    several = frozenset(words - set(pieces))
    return TextTokenizer(rules, built, several), np.array([old[piece] for piece in pieces], np.int64)
