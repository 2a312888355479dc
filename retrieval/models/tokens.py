"""Text to token ids and back, without torch: open_clip's cleaning, then a `tokenizers` model from a JSON file.

The same object serves indexing and the cold query path, so a query is always cut up as the passages were.
"""

from __future__ import annotations

import html
import json
import re
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

# Of how many letters a word must be to tell whether it is known, and how many of them a token of it has, on average, where it
# is. Keys struck at random are cut into nearly as many tokens as letters. Where the words are listed that a model was trained
# on, what is not among them has to be of longer pieces.
_TELLING, _PIECES, _PIECES_UNLISTED = 3, 1.7, 2.7
_KNOWN_WORDS = "known_words.txt"
# What tokenizers that part punctuation from words leave of "dog's" and "t-shirt".
_APOSTROPHE, _HYPHEN = re.compile(r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll)\b)"), re.compile(r"(?<=\w) - (?=\w)")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """How ids become a row: `prefix` and `suffix` around them, cut to `length` keeping the suffix, padded with `pad`.

    `clean` is open_clip's normalisation: `lower`, `whitespace` or `canonicalize`. `added` says that the tokenizer adds
    its own special tokens; `erase` is an id that becomes 0, or -1.
    """

    name: str
    clean: str
    length: int
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad: int = 0
    added: bool = False
    erase: int = -1


class TextTokenizer:
    """Texts to `(n, length) int64`, and ids back to text. `known` are words of several tokens that the model was trained on,
    where that is recorded."""

    def __init__(self, rules: TokenRules, model: tokenizers.Tokenizer, known: frozenset[str] | None = None) -> None:
        self.rules = rules
        self._known = known
        self._model = model
        model.no_padding()
        model.no_truncation()

    @staticmethod
    def open(folder: Path) -> TextTokenizer:
        """Read `tokenizer.json` and `tokenizer_rules.json`, and `known_words.txt` if it is there, from a folder."""
        import tokenizers

        try:
            rules = json.loads((folder / "tokenizer_rules.json").read_text("utf-8"))
            rules["prefix"], rules["suffix"] = tuple(rules["prefix"]), tuple(rules["suffix"])
            listed = folder / _KNOWN_WORDS
            known = frozenset(listed.read_text("utf-8").split()) if listed.is_file() else None
            model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            return TextTokenizer(TokenRules(**rules), model, known)
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ModelError(f"{folder}: cannot read the tokenizer: {error}") from error

    def save(self, folder: Path) -> None:
        """Write what `open` reads."""
        self._model.save(str(folder / "tokenizer.json"), pretty=False)
        (folder / "tokenizer_rules.json").write_text(json.dumps(asdict(self.rules)), "utf-8")
        if self._known is not None:
            (folder / _KNOWN_WORDS).write_text("\n".join(sorted(self._known)) + "\n", "utf-8")

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """`(n, length) int64`; a long text is cut, keeping its end marker."""
        rules = self.rules
        out = np.full((len(texts), rules.length), rules.pad, np.int64)
        cleaned = [clean(text, rules.clean) for text in texts]
        if rules.added:
            self._model.enable_truncation(rules.length)
        for row, encoded in enumerate(self._model.encode_batch(cleaned, add_special_tokens=rules.added)):
            room = rules.length - len(rules.prefix) - len(rules.suffix)
            ids = [*rules.prefix, *encoded.ids[:room], *rules.suffix]
            out[row, : len(ids)] = ids
        if rules.erase >= 0:
            out[out == rules.erase] = 0
        return out

    def fits(self, text: str) -> bool:
        """Whether `encode` keeps all of a text."""
        if self.rules.added:
            self._model.no_truncation()
        count = len(self._model.encode(clean(text, self.rules.clean), add_special_tokens=self.rules.added).ids)
        return count + len(self.rules.prefix) + len(self.rules.suffix) <= self.rules.length

    def words(self, text: str) -> list[tuple[str, list[int]]]:
        """The words of a text, as far as `encode` keeps them, each with the positions of its tokens in the row."""
        encoded = self._model.encode(clean(text, self.rules.clean), add_special_tokens=False)
        first, room = len(self.rules.prefix), self.rules.length - len(self.rules.prefix) - len(self.rules.suffix)
        places_of_word: dict[int, list[int]] = {}
        for place, word in enumerate(encoded.word_ids[:room]):
            if word is not None:
                places_of_word.setdefault(word, []).append(place)
        return [
            (
                str(self._model.decode([encoded.ids[place] for place in places])).strip(),
                [first + place for place in places],
            )
            for places in places_of_word.values()
        ]

    def knows(self, text: str) -> bool:
        """Whether some word of a text is of the vocabulary, listed as known, or put together from pieces of the vocabulary that
        are more than letters. Of words of one or two letters, and of figures, nobody can tell."""
        least = _PIECES if self._known is None else _PIECES_UNLISTED
        told = False
        for word, places in self.words(text):
            letters = sum(map(str.isalpha, word.removesuffix("</w>")))
            if letters >= _TELLING:
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
