"""Text to token ids and back, without torch: open_clip's cleaning, then a `tokenizers` model from a JSON file, or the table
that stands for a very large one (`retrieval.models.pieces`).

The same object serves indexing and the cold query path, so a query is always cut up as the passages were.
"""

from __future__ import annotations

import html
import json
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError
from retrieval.models.pieces import PieceTable

if TYPE_CHECKING:
    import tokenizers

# Of how many letters a word must be to tell whether it is known, and how many of them a token of it has, on average, where it
# is. Keys struck at random are cut into nearly as many tokens as letters. Where the words are listed that a model was trained
# on, what is not among them has to be of longer pieces.
_TELLING, _PIECES, _PIECES_UNLISTED = 3, 1.7, 2.7
# From here on scripts have letters for syllables or words, or no spaces: a letter of them is known that is not cut into bytes.
_SYLLABLES = 0x0900
_KNOWN_WORDS = "known_words.txt"
_MODEL, _RULES = "tokenizer.json", "tokenizer_rules.json"
# The mark of a space before a piece, in vocabularies that have no other sign of where a word begins.
_SPACE = "▁"
# What tokenizers that part punctuation from words leave of "dog's" and "t-shirt".
_APOSTROPHE, _HYPHEN = re.compile(r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll)\b)"), re.compile(r"(?<=\w) - (?=\w)")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """How ids become a row: `prefix` and `suffix` around them, cut to `length` keeping the suffix, padded with `pad` behind
    them, or before them with `pad_left`.

    `clean` is open_clip's normalisation: `lower`, `whitespace` or `canonicalize`. `erase` is an id that becomes 0, or -1.
    """

    name: str
    clean: str
    length: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad: int = 0
    pad_left: bool = False
    erase: int = -1

    @property
    def room(self) -> int:
        """How many ids of a text itself a row holds."""
        return self.length - len(self.prefix) - len(self.suffix)


class TextTokenizer:
    """Texts to `(n, length) int64`, and ids back to text. `model` may be a file, read when it is needed: not while `table` says
    the same. `known` are words of several tokens that the model was trained on, where that is recorded."""

    def __init__(
        self,
        rules: TokenRules,
        model: tokenizers.Tokenizer | Path,
        known: frozenset[str] | None = None,
        table: PieceTable | None = None,
    ) -> None:
        self.rules = rules
        self._known, self._table, self._given = known, table, model

    @cached_property
    def _model(self) -> tokenizers.Tokenizer:
        import tokenizers

        given = self._given
        try:
            model = tokenizers.Tokenizer.from_file(str(given)) if isinstance(given, Path) else given
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ModelError(f"{given}: cannot read the tokenizer: {error}") from error
        model.no_padding()
        model.no_truncation()
        return model

    @staticmethod
    def open(folder: Path) -> TextTokenizer:
        """Read what `save` wrote into a folder. Raises `ModelError`."""
        try:
            rules = json.loads((folder / _RULES).read_text("utf-8"))
            rules.pop("added", None)  # of folders that an earlier edition wrote
            rules["prefix"], rules["suffix"] = tuple(rules["prefix"]), tuple(rules["suffix"])
            listed = folder / _KNOWN_WORDS
            known = frozenset(listed.read_text("utf-8").split()) if listed.is_file() else None
            tokenizer = TextTokenizer(TokenRules(**rules), folder / _MODEL, known, PieceTable.open(folder))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{folder}: cannot read the tokenizer: {error}") from error
        if tokenizer._table is None:
            _ = tokenizer._model
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_rules.json`, `known_words.txt` where words are listed, and the table of the pieces
        where the tokenizer is of the kind that has one."""
        self._model.save(str(folder / _MODEL), pretty=False)
        (folder / _RULES).write_text(json.dumps(asdict(self.rules)), "utf-8")
        if self._known is not None:
            (folder / _KNOWN_WORDS).write_text("\n".join(sorted(self._known)) + "\n", "utf-8")
        table = self._table or PieceTable.of(self._model)
        if table is not None:
            table.save(folder)

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """`(n, length) int64`; a long text is cut, keeping its end marker."""
        rules = self.rules
        out = np.full((len(texts), rules.length), rules.pad, np.int64)
        for row, ids in enumerate(self._ids([clean(text, rules.clean) for text in texts])):
            ids = [*rules.prefix, *ids[: rules.room], *rules.suffix]
            if rules.pad_left:
                out[row, rules.length - len(ids) :] = ids
            else:
                out[row, : len(ids)] = ids
        if rules.erase >= 0:
            out[out == rules.erase] = 0
        return out

    def fits(self, text: str) -> bool:
        """Whether `encode` keeps all of a text."""
        (ids,) = self._ids([clean(text, self.rules.clean)])
        return len(ids) <= self.rules.room

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """The words of a text, as far as `encode` keeps them, each with the positions of its tokens in the row."""
        ids_of_words = self._words(clean(text, self.rules.clean))
        start = len(self.rules.prefix)
        end = start + self.rules.room
        if self.rules.pad_left:
            start += max(0, self.rules.room - sum(len(ids) for _, ids in ids_of_words))
        places_of_words = []
        for word, ids in ids_of_words:
            places = list(range(start, min(start + len(ids), end)))
            start += len(ids)
            if places:
                shown = word if len(places) == len(ids) else str(self._model.decode(ids[: len(places)])).strip()
                places_of_words.append((shown, places))
        return places_of_words

    def _ids(self, cleaned: Sequence[str]) -> list[list[int]]:
        """The ids of each cleaned text, without prefix and suffix; of a text that is too long at least one more than fits."""
        table, most = self._table, self.rules.room + 1
        if table is None:
            return [encoded.ids for encoded in self._model.encode_batch(list(cleaned), add_special_tokens=False)]
        return [
            list(islice((token for _, ids in table.chunks(text) for token in ids), most))
            if table.reads(text)
            else self._model.encode(text, add_special_tokens=False).ids
            for text in cleaned
        ]

    def _words(self, cleaned: str) -> list[tuple[str, list[int]]]:
        """The words of a cleaned text with the ids of each."""
        if self._table is not None and self._table.reads(cleaned):
            return list(self._table.chunks(cleaned))
        encoded = self._model.encode(cleaned, add_special_tokens=False)
        ids_of_word: dict[tuple[int, int], list[int]] = {}
        begun = 0
        for token, piece, word in zip(encoded.ids, encoded.tokens, encoded.word_ids, strict=True):
            if word is not None:
                begun += piece.startswith(_SPACE)
                ids_of_word.setdefault((word, begun), []).append(token)
        return [(str(self._model.decode(ids)).strip(), ids) for ids in ids_of_word.values()]

    def knows(self, text: str) -> bool:
        """Whether some word of a text is of the vocabulary, listed as known, or put together from pieces of the vocabulary that
        are more than letters. Of words of one or two letters, and of figures, nobody can tell."""
        least = _PIECES if self._known is None else _PIECES_UNLISTED
        told = False
        for word, places in self.words(text):
            alphabetic = [
                unicodedata.normalize("NFD", letter) for letter in word.removesuffix("</w>") if letter.isalpha()
            ]
            letters = len(alphabetic)
            if any(ord(letter[0]) >= _SYLLABLES for letter in alphabetic):
                told = True
                if letters >= len(places):
                    return True
            elif letters >= _TELLING:
                told = True
                if (
                    letters / len(places) > least
                    or len(places) == 1
                    or (self._known is not None and word in self._known)
                ):
                    return True
        return not told

    def decode(self, ids: Sequence[int]) -> str:
        """Ids back to text, special tokens left out, and no space where writing has none: before a full stop or comma, within
        "dog's" and "t-shirt"."""
        special = {*self.rules.prefix, *self.rules.suffix, self.rules.pad}
        shown_ids = [token for token in ids if token not in special]
        text = re.sub(r"\s+([.,;:!?])", r"\1", str(self._model.decode(shown_ids)).strip())
        return _HYPHEN.sub("-", _APOSTROPHE.sub("'", text))


def clean(text: str, how: str) -> str:
    """open_clip's text normalisations, character for character."""
    # Printable ASCII without entities is what ftfy would leave as it is, and importing it takes a third of a search.
    if "&" in text or not (text.isascii() and text.isprintable()):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = text.strip()
    if how == "canonicalize":
        return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text
