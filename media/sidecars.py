"""Files beside a photo or video that say something of it: XMP of photo programs, and JSON of Google Takeout."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator

from media import storage
from media.errors import MediaError
from media.facts import Facts, joined, local, phrases, position
from media.types import Sidecar

SIDECAR_SUFFIXES = frozenset((".xmp", ".json"))
MAX_TAKEOUT = 1024 * 1024
# Google's words after the name of the media file, cut where the whole name would be too long.
_TAKEOUT = "supplemental-metadata"
_SHORTEST_CUT, _LONGEST_CUT = 40, 51
# What Google appends to the name of an edited picture, whose facts are those of the original.
_EDITED = (
    "edited", "bearbeitet", "modifié", "editado", "editada", "modificato", "bewerkt", "edytowane", "redigerad", "redigeret",
    "redigert", "muokattu", "upraveno", "düzenlendi", "изменено", "編集済み", "已修改", "已編輯", "수정됨",
)  # fmt: skip
_NUMBERED = re.compile(r"^(.*)\((\d{1,4})\)$", re.DOTALL)


class SidecarNames:
    """The names of one folder that may be sidecars, to be asked for those of a photo or video: by hashes, whatever their
    number. Names are compared without regard to case."""

    def __init__(self, names: Iterable[str]) -> None:
        self._xmp: dict[str, str] = {}
        self._takeout: dict[tuple[str, str], str] = {}
        # Of names that were cut: as far as they go.
        self._cut: dict[tuple[str, str], str] = {}
        self._stems: dict[tuple[str, str], str] = {}
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".xmp":
                self._xmp.setdefault(stem.casefold(), name)
            elif suffix.lower() == ".json":
                base, number = _without_number(stem.casefold())
                self._takeout.setdefault((_without_takeout(base), number), name)
                self._stems.setdefault((os.path.splitext(_without_takeout(base))[0], number), name)
                if len(base) >= _SHORTEST_CUT:
                    self._cut.setdefault((base, number), name)

    def of(self, media: str, *, video: bool = False) -> list[str]:
        """The sidecars of the file named `media`, those that say most first. A `video` without its own takes those of the
        picture of the same stem: it is the moving part of it."""
        whole = media.casefold()
        stem, suffix = os.path.splitext(whole)
        names = [self._xmp.get(whole), self._xmp.get(stem), self._takeout_of(stem, suffix, video)]
        return list(dict.fromkeys(name for name in names if name is not None))

    def _takeout_of(self, stem: str, suffix: str, video: bool) -> str | None:
        if not self._takeout:
            return None
        for candidate in (stem, _without_edit(stem)):
            if candidate is None:
                continue
            base, number = _without_number(candidate)
            for key, count in dict.fromkeys(((candidate + suffix, ""), (base + suffix, number))):
                if (key, count) in self._takeout:
                    return self._takeout[key, count]
                full = f"{key}.{_TAKEOUT}"
                for length in range(min(len(full), _LONGEST_CUT), _SHORTEST_CUT - 1, -1):
                    if (full[:length], count) in self._cut:
                        return self._cut[full[:length], count]
            if video and (base, number) in self._stems:
                return self._stems[base, number]
        return None


def sidecar_facts(sidecars: Iterable[Sidecar]) -> tuple[Facts, list[tuple[str, MediaError]]]:
    """What the sidecars of one file say together, and what is wrong with which."""
    parts: list[Facts] = []
    wrong: list[tuple[str, MediaError]] = []
    for sidecar in sidecars:
        try:
            parts.append(_read(sidecar.path))
        except MediaError as error:
            wrong.append((sidecar.path, error))
        except Exception as error:  # Whatever a parser makes of a hostile file costs that file alone
            wrong.append((sidecar.path, MediaError("decode", f"damaged: {' '.join(str(error).split())[:150]}")))
    return joined(*parts), wrong


def _read(path: str) -> Facts:
    xmp = path.lower().endswith(".xmp")
    # Imported here: the walk needs the names of sidecars alone.
    from media.metadata import MAX_XMP, xmp_facts

    bound = MAX_XMP if xmp else MAX_TAKEOUT
    try:
        with storage.open_file(path) as opened:
            data = opened.read(bound + 1)
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error
    if len(data) > bound:
        raise MediaError("read", f"a sidecar of more than {bound // 1_048_576} MB is not read")
    return xmp_facts(data, "sidecar") if xmp else takeout_facts(data)


def takeout_facts(data: bytes) -> Facts:
    """The facts in a JSON of Google Takeout. Raises `MediaError("decode", reason)` for other JSON, and for what is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MediaError("decode", f"not JSON: {' '.join(str(error).split())[:150]}") from error
    if not isinstance(value, dict) or not ({"photoTakenTime", "creationTime", "geoData"} & value.keys()):
        raise MediaError("decode", "JSON, but not of Google Takeout")
    taken = local(_seconds(value.get("photoTakenTime")))
    latitude, longitude = next(
        (place for place in map(_place, (value.get("geoData"), value.get("geoDataExif"))) if place[0] is not None),
        (None, None),
    )
    return Facts(
        taken_at=taken,
        date_source="takeout" if taken else None,
        from_utc=True,
        latitude=latitude,
        longitude=longitude,
        words=phrases([value.get("description"), *_people(value.get("people"))]),
    )


def _seconds(value: object) -> float:
    stamp = value.get("timestamp") if isinstance(value, dict) else None
    return float(stamp) if isinstance(stamp, (str, int)) and re.fullmatch(r"-?\d{1,12}", str(stamp)) else 0.0


def _place(value: object) -> tuple[float | None, float | None]:
    return position(value.get("latitude"), value.get("longitude")) if isinstance(value, dict) else (None, None)


def _people(value: object) -> Iterator[object]:
    for person in value[:100] if isinstance(value, list) else []:
        if isinstance(person, dict):
            yield person.get("name")


def _without_number(stem: str) -> tuple[str, str]:
    """`photo(2)` as `photo` and `2`."""
    match = _NUMBERED.match(stem)
    return (match[1], match[2]) if match else (stem, "")


def _without_takeout(base: str) -> str:
    """`photo.jpg.supplemental-meta` as `photo.jpg`."""
    name, dot, tail = base.rpartition(".")
    return name if dot and os.path.splitext(name)[1] and _TAKEOUT.startswith(tail) else base


def _without_edit(stem: str) -> str | None:
    base, number = _without_number(stem)
    name, dash, tail = base.rpartition("-")
    if not dash or tail not in _EDITED:
        return None
    return f"{name}({number})" if number else name
