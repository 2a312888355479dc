"""Patterns: which texts of a column hold some words, case and diacritics folded."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Arrow's regular expressions (RE2) refuse very long ones.
_LONGEST = 2000
# What Python takes for space in ASCII; to RE2 `\s` is less.
_SPACES = r"[\t-\r\x1c-\x20]+"


class Pattern:
    """Words that occur in a text as they stand, whatever lies between them; with `whole`, a text must be them, `*` and `?`
    standing for any characters and any one."""

    def __init__(self, text: str, *, whole: bool = False) -> None:
        body = r"\s+".join(re.escape(part) for part in fold(text).split())
        if whole:
            body = body.replace(r"\*", ".*").replace(r"\?", ".")
        self._regex = re.compile(rf"\A(?:{body})\Z" if whole else body, re.DOTALL)
        # An ASCII text holds nothing but ASCII, so most rows are looked at by Arrow alone.
        self._ascii = body.isascii() and "\0" not in body
        self._arrow = None
        if self._ascii and len(body) <= _LONGEST:
            body = body.replace(r"\s+", _SPACES)
            self._arrow = rf"(?s)\A(?:{body})\z" if whole else f"(?s){body}"

    def matches(self, text: str) -> bool:
        """Whether a text does."""
        return self._regex.search(fold(text)) is not None

    def mask(self, texts: Any) -> NDArray[np.bool_]:
        """`(n,) bool` of an Arrow column of texts; False for null."""
        import pyarrow.compute as pc

        mask = np.zeros(len(texts), np.bool_)
        ascii_only = _bools(pc.string_is_ascii(texts))
        if self._arrow is not None:
            mask |= ascii_only & _bools(pc.match_substring_regex(pc.ascii_lower(texts), self._arrow))
            others = ~ascii_only
        else:
            others = ~ascii_only | self._ascii
        others &= _bools(pc.is_valid(texts))
        places = np.flatnonzero(others)
        if len(places):
            mask[places] = [self.matches(text) for text in texts.take(pa.array(places)).to_pylist()]
        return mask


def fold(text: str) -> str:
    """A text for comparing: lower case, compatible forms (NFKD), without diacritics."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in apart if not unicodedata.combining(char))


def _bools(column: Any) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    filled = pc.fill_null(column, False)
    array = filled.combine_chunks() if isinstance(filled, pa.ChunkedArray) else filled
    return np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)
