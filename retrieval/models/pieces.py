"""Byte pairs over a very large vocabulary, in mapped arrays: opened in a millisecond, where reading the JSON file of 256,000
pieces takes more than a second.

Only what cutting needs is kept: the id of each single character and byte, and which two pieces become which, in which order.
The ids are those of the `tokenizers` model that it was written from.
"""

from __future__ import annotations

import heapq
import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tokenizers

_SETTINGS, _CHARACTERS, _BYTES, _PAIRS, _MADE = (
    "pieces.json", "characters.npy", "bytes.npy", "pairs.npy", "made.npy",
)  # fmt: skip
_SPACE = "▁"
# A chunk is a word with the marks of the spaces before it; no piece goes on behind such a mark.
_CHUNK = re.compile(f"{_SPACE}*[^{_SPACE}]+|{_SPACE}+")
_CROSSES = re.compile(f"[^{_SPACE}]{_SPACE}")
# Of how many chunks the ids are remembered.
_REMEMBERED = 50_000


class PieceTable:
    """What cuts texts into the pieces of one vocabulary. `normalizers` are applied in order: `lower`, or a pair of what is
    replaced and by what, where nothing is replaced by being put first; `whole` are texts that are one token as they are."""

    def __init__(
        self,
        normalizers: list[Any],
        whole: list[str],
        characters: NDArray[np.int32],
        of_bytes: NDArray[np.int32],
        pairs: NDArray[np.uint64],
        made: NDArray[np.int32],
    ) -> None:
        self._normalizers, self._whole = normalizers, whole
        self._characters, self._bytes = characters, of_bytes
        self._points, self._pairs = np.ascontiguousarray(characters[:, 0]).data, pairs.data
        self._made = made
        self._ids_of_chunk: dict[str, list[int]] = {}

    @staticmethod
    def of(model: tokenizers.Tokenizer) -> PieceTable | None:
        """The table of a model of byte pairs over whole texts that cuts what it does not know into bytes (SentencePiece's, as
        Gemma and SigLIP 2 have it); None for any other kind."""
        value = json.loads(model.to_str())
        pairs_of, before = value["model"], value["pre_tokenizer"]
        normalizers = _normalizers(value["normalizer"])
        plain = (
            pairs_of.get("type") == "BPE"
            and pairs_of.get("byte_fallback")
            and not any(
                pairs_of.get(key)
                for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
            )
        )
        if not plain or normalizers is None or [" ", _SPACE] not in normalizers:
            return None
        # Where every space became a mark, a split at spaces does nothing.
        if before is not None and not (before["type"] == "Split" and before["pattern"] == {"String": " "}):
            return None
        vocabulary: dict[str, int] = pairs_of["vocab"]
        of_bytes = [vocabulary.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        if any(token < 0 and (byte > 127 or chr(byte) not in vocabulary) for byte, token in enumerate(of_bytes)):
            return None
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in pairs_of["merges"]]
        if any(_CROSSES.search(one + other) for one, other in merges):
            return None
        left = np.array([vocabulary[one] for one, _ in merges], np.uint64)
        right = np.array([vocabulary[other] for _, other in merges], np.uint64)
        pairs = left << np.uint64(32) | right
        made = np.array([vocabulary[one + other] for one, other in merges], np.int32).reshape(-1)
        # Of a pair that is listed twice the later place counts, as it does in the model.
        _, last = np.unique(pairs[::-1], return_index=True)
        order = len(pairs) - 1 - last
        characters = sorted((ord(piece), token) for piece, token in vocabulary.items() if len(piece) == 1)
        return PieceTable(
            normalizers,
            [token["content"] for token in value["added_tokens"]],
            np.array(characters, np.int32).reshape(-1, 2),
            np.array(of_bytes, np.int32),
            pairs[order],
            np.stack([order, made[order]], 1).astype(np.int32),
        )

    @staticmethod
    def open(folder: Path) -> PieceTable | None:
        """The table in a folder, mapped; None where there is none. Raises `OSError` and `ValueError`."""
        if not (folder / _SETTINGS).is_file():
            return None
        settings = json.loads((folder / _SETTINGS).read_text("utf-8"))
        arrays = [
            np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (_CHARACTERS, _BYTES, _PAIRS, _MADE)
        ]
        return PieceTable(settings["normalizers"], settings["whole"], *arrays)

    def save(self, folder: Path) -> None:
        """Write what `open` reads; the folder counts once the last file is there."""
        for name, array in (
            (_CHARACTERS, self._characters), (_BYTES, self._bytes), (_PAIRS, np.asarray(self._pairs)), (_MADE, self._made),
        ):  # fmt: skip
            np.save(folder / name, array, allow_pickle=False)
        (folder / _SETTINGS).write_text(json.dumps({"normalizers": self._normalizers, "whole": self._whole}), "utf-8")

    def reads(self, text: str) -> bool:
        """Whether `chunks` says what the model says: not where a part of the text is a token of its own."""
        if not any(token in text for token in self._whole):
            normal = self._normal(text)
            return not any(token in normal for token in self._whole)
        return False

    def chunks(self, text: str) -> Iterator[tuple[str, list[int]]]:
        """The words of a text, each with its ids."""
        for chunk in _CHUNK.findall(self._normal(text)):
            ids = self._ids_of_chunk.get(chunk)
            if ids is None:
                if len(self._ids_of_chunk) >= _REMEMBERED:
                    self._ids_of_chunk.clear()
                ids = self._ids_of_chunk[chunk] = self._joined(list(self._singles(chunk)))
            yield chunk.replace(_SPACE, " ").strip(), ids

    def _normal(self, text: str) -> str:
        for how in self._normalizers:
            if how == "lower":
                text = "".join(map(str.lower, text))
            elif how[0]:
                text = text.replace(how[0], how[1])
            elif text:
                text = how[1] + text
        return text

    def _singles(self, chunk: str) -> Iterator[int]:
        """The ids of the characters, of those that have none the ids of their bytes."""
        for character in chunk:
            at = bisect_left(self._points, ord(character))
            if at < len(self._points) and self._points[at] == ord(character):
                yield int(self._characters[at, 1])
            else:
                yield from self._bytes[list(character.encode())].tolist()

    def _joined(self, ids: list[int]) -> list[int]:
        """Pieces joined to larger ones, the earliest in the model's order first, then from the left."""
        count = len(ids)
        after, before = list(range(1, count + 1)), list(range(-1, count - 1))
        waiting: list[tuple[int, int, int, int, int]] = []

        def offer(at: int) -> None:
            if at < 0 or after[at] >= count:
                return
            one, other = ids[at], ids[after[at]]
            pair = one << 32 | other
            place = bisect_left(self._pairs, pair)
            if place < len(self._pairs) and self._pairs[place] == pair:
                order, made = self._made[place].tolist()
                heapq.heappush(waiting, (order, at, one, other, made))

        for at in range(count - 1):
            offer(at)
        while waiting:
            _, at, one, other, made = heapq.heappop(waiting)
            if ids[at] != one or after[at] >= count or ids[after[at]] != other:
                continue  # one of the two has become a part of something else
            gone = after[at]
            ids[at], ids[gone] = made, -1
            after[at] = after[gone]
            if after[at] < count:
                before[after[at]] = at
            offer(at)
            offer(before[at])
        return [token for token in ids if token >= 0]


def _normalizers(value: dict[str, Any] | None) -> list[Any] | None:
    """A model's normalisation as `PieceTable` applies it; None where it has one of another kind."""
    if value is None:
        return []
    if value["type"] == "Sequence":
        parts = [_normalizers(part) for part in value["normalizers"]]
        return None if None in parts else [how for part in parts for how in part or []]
    if value["type"] == "Lowercase":
        return ["lower"]
    if value["type"] == "Replace" and "String" in value["pattern"]:
        return [[value["pattern"]["String"], value["content"]]]
    if value["type"] == "Prepend":
        return [["", value["prepend"]]]
    return None
