"""Text to terms: what counts as the same word, in an index and in a query alike.

Case, diacritics and compatibility forms are folded (Unicode NFKD). Words are cut where a name is: at case changes, between
letters and digits, and at `-` and `_`; what was cut so is a term as a whole, too: `IMG_2034` gives `img`, `2034` and
`img2034`, and `img-2034` the same. Scripts without spaces between words (Han, kana, Thai, …) give characters and pairs of
them.

Everything works on the code points of many texts at once, so that a million captions are a matter of seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Longer terms, in bytes, are no words.
LONGEST_TERM = 64
_SEPARATOR, _JOINER, _LOWER, _UPPER, _DIGIT, _UNSPACED, _MARK, _DROPPED = range(8)
_JOINERS = frozenset("-_\u2010\u2011")
# Letters that NFKD leaves as they are.
_EXPANSIONS = {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "TH"}
_SINGLES = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ŧ": "t"}
# Marks of Latin, Greek, Cyrillic, Hebrew and Arabic; those of Indic scripts are vowels and stay.
_DIACRITICS = (
    (0x0300, 0x036F), (0x0483, 0x0489), (0x0591, 0x05C7), (0x0610, 0x061A), (0x064B, 0x065F), (0x0670, 0x0670),
    (0x06D6, 0x06ED), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F),
)  # fmt: skip
_UNSPACED_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
)  # fmt: skip
_RECOMPOSED_FROM = 0x0900
_CODES = 0x110000

Codes = NDArray[np.uint32]


@dataclass(frozen=True)
class Spans:
    """Terms of one sort, in one buffer: term i is `data[offsets[i]:offsets[i + 1]]` in UTF-8, of the text number `texts[i]`,
    and counts where `keep[i]`. `offsets (n + 1,)` and `texts (n,)` are int64."""

    data: bytes
    offsets: NDArray[np.int64]
    texts: NDArray[np.int64]
    keep: NDArray[np.bool_]

    def terms(self) -> list[tuple[str, int]]:
        """The terms that count, each with the number of its text."""
        return [
            (self.data[self.offsets[at] : self.offsets[at + 1]].decode(), int(self.texts[at]))
            for at in np.flatnonzero(self.keep).tolist()
        ]


@dataclass(frozen=True)
class Tokens:
    """The terms of some texts: `parts` are words as they are cut, `compounds` what was cut into several, `characters` and
    `pairs` of scripts without spaces, and `wholes` each text as one term, without what stands between its words."""

    parts: Spans
    compounds: Spans
    characters: Spans
    pairs: Spans
    wholes: Spans


def tokens(texts: Sequence[str]) -> Tokens:
    """The terms of `texts`, numbered from 0."""
    joined = "\0".join([text.replace("\0", " ") if "\0" in text else text for text in texts])
    if not joined.isascii():
        for letter, letters in _EXPANSIONS.items():
            joined = joined.replace(letter, letters)
        joined = unicodedata.normalize("NFKD", joined)
    codes, classes = _classified(joined)
    keep = classes != _DROPPED
    if not keep.all():
        codes, classes = codes[keep], classes[keep]
    if len(codes) and int(codes.max()) >= _RECOMPOSED_FROM:
        # Hangul and kana: NFKD took their syllables apart.
        codes, classes = _classified(unicodedata.normalize("NFC", _text(codes)))
    return _cut(_folded(codes), classes)


@dataclass(frozen=True)
class QueryWord:
    """A word of a query as it was `typed`, its `parts`, and the `compound` of them where there are several."""

    typed: str
    parts: tuple[str, ...]
    compound: str | None


def query_words(text: str) -> list[QueryWord]:
    """The words of a query, in order, each once; a run of characters without spaces counts by its pairs."""
    typed = [word for word in text.split() if any(character.isalnum() for character in word)]
    cut = tokens(typed)
    parts: dict[int, list[str]] = {}
    compounds: dict[int, list[str]] = {}
    paired = {number for _, number in cut.pairs.terms()}
    for spans, wanted in (
        (cut.parts, None),
        (cut.pairs, None),
        (cut.characters, set(range(len(typed))) - paired),
    ):
        for term, number in spans.terms():
            if wanted is None or number in wanted:
                parts.setdefault(number, []).append(term)
    for term, number in cut.compounds.terms():
        compounds.setdefault(number, []).append(term)
    words: dict[tuple[str, ...], QueryWord] = {}
    for number, terms in sorted(parts.items()):
        joined = compounds.get(number, [])
        key = tuple(dict.fromkeys(terms))
        words.setdefault(
            key,
            QueryWord(typed[number].strip(".,;:!?\"'()[]{}«»„“”"), key, joined[0] if len(joined) == 1 else None),
        )
    return list(words.values())


def whole(text: str) -> str:
    """A text as one term, without what stands between its words; empty where it has none."""
    terms = tokens([text]).wholes.terms()
    return terms[0][0] if terms else ""


def _classified(text: str) -> tuple[Codes, NDArray[np.uint8]]:
    """The code points of a text and the class of each, both `(n,)`."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")
    table = np.zeros(_CODES, np.uint8)
    for code in _present(codes):
        table[code] = _class_of(code)
    return codes, table[codes]


def _folded(codes: Codes) -> Codes:
    """The same letters in lower case."""
    table = np.zeros(_CODES, np.uint32)
    for code in _present(codes):
        letter = chr(code)
        folded = letter.casefold()
        folded = folded if len(folded) == 1 else letter.lower()
        if letter.isdecimal():
            folded = str(unicodedata.decimal(letter))
        folded = _SINGLES.get(folded, folded)
        table[code] = ord(folded) if len(folded) == 1 else code
    return table[codes]


def _present(codes: Codes) -> list[int]:
    there = np.zeros(_CODES, np.bool_)
    there[codes] = True
    return [int(code) for code in np.flatnonzero(there)]


def _class_of(code: int) -> int:
    letter = chr(code)
    if code == 0:
        return _MARK
    if letter in _JOINERS:
        return _JOINER
    if code == 0x00AD or 0x200B <= code <= 0x200D or any(low <= code <= high for low, high in _DIACRITICS):
        return _DROPPED
    if letter.isdecimal():
        return _DIGIT
    category = unicodedata.category(letter)
    if any(low <= code <= high for low, high in _UNSPACED_RANGES):
        return _UNSPACED if category[0] in "LMN" else _SEPARATOR
    if category in ("Lu", "Lt"):
        return _UPPER
    return _LOWER if category[0] in "LMN" else _SEPARATOR


def _text(codes: Codes) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "replace")


def _cut(codes: Codes, classes: NDArray[np.uint8]) -> Tokens:
    inside = (classes >= _LOWER) & (classes <= _UNSPACED)
    before = np.concatenate([classes[:0], np.zeros(min(1, len(classes)), np.uint8), classes[:-1]])
    after = np.concatenate([classes[1:], np.zeros(min(1, len(classes)), np.uint8)])
    group = np.where(classes == _UPPER, np.uint8(_LOWER), classes)
    cut = _changes(group)
    cut |= (classes == _UPPER) & ((before == _LOWER) | ((before == _UPPER) & (after == _LOWER)))
    gaps = np.cumsum((classes == _SEPARATOR) | (classes == _MARK))[inside]
    numbers = np.cumsum(classes == _MARK)[inside].astype(np.int64)
    letters, classes = codes[inside], classes[inside]
    unspaced = classes == _UNSPACED
    ends = np.concatenate([[0], np.cumsum(_utf8_lengths(letters))])
    data = _text(letters).encode()
    everywhere = np.arange(len(letters), dtype=np.int64)
    part_starts = everywhere[cut[inside]]
    chunk_starts = everywhere[_changes(gaps)]
    text_starts = everywhere[_changes(numbers)]
    parts_of_chunk = np.diff(np.append(np.searchsorted(part_starts, chunk_starts), len(part_starts)))
    plain = np.add.reduceat(unspaced, chunk_starts) == 0 if len(chunk_starts) else np.empty(0, np.bool_)
    pairs = everywhere[:-1][unspaced[:-1] & unspaced[1:] & (np.diff(gaps) == 0)] if len(letters) else everywhere
    both = letters[np.stack([pairs, pairs + 1], 1)].reshape(-1) if len(pairs) else letters[:0]
    pair_ends = np.concatenate([[0], np.cumsum(_utf8_lengths(both))])[::2]
    return Tokens(
        parts=_spans(data, ends, part_starts, numbers, ~unspaced[part_starts]),
        compounds=_spans(data, ends, chunk_starts, numbers, (parts_of_chunk > 1) & plain),
        characters=_spans(data, ends, everywhere, numbers, unspaced),
        pairs=Spans(_text(both).encode(), pair_ends.astype(np.int64), numbers[pairs], np.ones(len(pairs), np.bool_)),
        wholes=_spans(data, ends, text_starts, numbers, np.ones(len(text_starts), np.bool_)),
    )


def _spans(
    data: bytes, ends: NDArray[np.int64], starts: NDArray[np.int64], numbers: NDArray[np.int64], keep: NDArray[np.bool_]
) -> Spans:
    """Stretches of the letters of `data` that begin at `starts` and follow one another."""
    offsets = np.append(ends[starts], len(data)).astype(np.int64)
    return Spans(data, offsets, numbers[starts], keep & (np.diff(offsets) <= LONGEST_TERM))


def _changes(values: NDArray[np.int64] | NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a value is another than the one before it, the first included."""
    return np.concatenate([np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1]])


def _utf8_lengths(codes: Codes) -> NDArray[np.int64]:
    return 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
