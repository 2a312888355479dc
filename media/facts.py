"""What is known of a file besides its pixels: when and where it was made, by which camera, and what people wrote of it.

Whatever a file says is checked here: a date or a position that cannot be true is no fact, and texts lose what no one can read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

DateSource = Literal["exif", "container", "sidecar", "takeout", "name", "file"]
# The first photograph. Counts of seconds begin with 1904 (QuickTime) and 1970: a clock that was never set.
_FIRST_YEAR = 1826
_QUICKTIME_YEAR = 1904
# Dates without separators are guesses: no phone wrote names before these.
_FIRST_YEAR_OF_NAMES = 1990
# No zone is further from UTC, so a name and a moment in UTC that are nearer than this may be the same.
_WIDEST_ZONE = timedelta(hours=14, minutes=1)
_MOST_WORDS = 16_000
_LONGEST_TEXT = 4_000
_WRITTEN = re.compile(
    r"\s*(\d{4})(?:[:/.\-](\d\d?)(?:[:/.\-](\d\d?)(?:[T ]+(\d\d?):(\d\d)(?::(\d\d))?[.,]?\d*\s*(Z|[+-]\d\d:?\d\d)?)?)?)?"
)
_IN_NAME = re.compile(
    r"(?<!\d)(?P<year>(?:18|19|20)\d\d)(?P<mark>[-_.]?)(?P<month>\d\d)(?P=mark)(?P<day>\d\d)"
    r"(?:(?:[-_ T]|[ _]at[ _]|, ?)?"
    r"(?P<hour>\d\d|(?<=[-_ ])\d(?=[.:-]))(?P<colon>[-_.:]?)(?P<minute>\d\d)(?P=colon)(?P<second>\d\d)"
    r"(?:\s?(?P<half>[AP]M)(?![a-z]))?|(?!\d))",
    re.IGNORECASE,
)
_MILLISECONDS = re.compile(r"(?:^mmexport|^FB_IMG_|^wx_camera_|^)(1[0-9]{12})(?!\d)", re.IGNORECASE)
_POSITION = re.compile(r"\s*([+-]\d{2,6}(?:\.\d+)?)([+-]\d{3,7}(?:\.\d+)?)")
# What cameras write where a description would stand.
_EMPTY_WORDS = re.compile(
    r"(?:OLYMPUS DIGITAL CAMERA|SONY DSC|SAMSUNG(?: CAMERA PICTURES)?|MINOLTA DIGITAL CAMERA|KODAK Digital Still Camera|"
    r"KONICA MINOLTA.*|Exif_JPEG_PICTURE|DCIM\\.*|cof|sdr|hdrpl|dav|default|untitled|charset=.*|ASCII|binary comment)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`taken_at` is local time, as the camera showed it, in ISO 8601 without a zone, and `date_source` where it comes from.
    With `from_utc`, only UTC is written there, and `taken_at` is in the zone of this machine. Latitude and longitude are in
    degrees north and east, `rating` is 1 to 5, and `words` are keywords, titles, descriptions and people."""

    taken_at: str | None = None
    date_source: DateSource | None = None
    from_utc: bool = False
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    rating: int | None = None
    words: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """The words, one a line, within a bound; None where there are none."""
        return "\n".join(self.words)[:_MOST_WORDS] or None


NO_FACTS = Facts()


def joined(*several: Facts) -> Facts:
    """Of each fact the first that is there; all words, each once."""
    dated = next((facts for facts in several if facts.taken_at is not None), Facts())
    placed = next((facts for facts in several if facts.latitude is not None), Facts())
    words: dict[str, str] = {}
    for facts in several:
        for word in facts.words:
            words.setdefault(word.casefold(), word)
    return Facts(
        taken_at=dated.taken_at,
        date_source=dated.date_source,
        from_utc=dated.from_utc,
        camera=next((facts.camera for facts in several if facts.camera is not None), None),
        latitude=placed.latitude,
        longitude=placed.longitude,
        rating=next((facts.rating for facts in several if facts.rating is not None), None),
        words=tuple(words.values()),
    )


def with_sidecars(inside: Facts, beside: Facts) -> Facts:
    """What a file and the sidecars beside it say together. The camera knows best when it was, and people where it was and how
    good it is: in the sidecar they mend what they cannot write into the file."""
    dated = inside if inside.taken_at is not None else beside
    return replace(
        joined(beside, inside),
        taken_at=dated.taken_at,
        date_source=dated.date_source,
        from_utc=dated.from_utc,
        camera=inside.camera or beside.camera,
    )


def completed(facts: Facts, name: str, mtime_ns: int) -> Facts:
    """The facts of a file with a date wherever that is possible: without one of its own that of its name, else of its last
    change.

    A moment that is known in UTC alone gives way to a name that tells the local time of the same moment.
    """
    stem = os.path.splitext(os.path.basename(name))[0]
    named = date_in_name(stem)
    if facts.taken_at is None:
        if named is not None:
            return replace(facts, taken_at=named, date_source="name")
        return replace(facts, taken_at=local(mtime_ns / 1e9), date_source="file") if local(mtime_ns / 1e9) else facts
    if facts.from_utc and named is not None and not named.endswith("T00:00:00") and not stem.startswith("PXL_"):
        apart = datetime.fromisoformat(named) - datetime.fromisoformat(facts.taken_at)
        offset = datetime.fromisoformat(facts.taken_at).astimezone().utcoffset() or timedelta()
        if abs(apart + offset) <= _WIDEST_ZONE:
            return replace(facts, taken_at=named, date_source="name", from_utc=False)
    return facts


def checked(year: int, month: int = 1, day: int = 1, hour: int = 0, minute: int = 0, second: int = 0) -> str | None:
    """A local time in ISO 8601; None for one that does not exist, or that only a wrong clock shows."""
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59))
    except ValueError:
        return None
    if not _FIRST_YEAR <= year <= datetime.now().year + 1 or year == _QUICKTIME_YEAR:
        return None
    return None if moment == datetime(1970, 1, 1) else moment.isoformat()


def local(seconds: float) -> str | None:
    """Seconds since 1970 (UTC) in the zone of this machine; None for what cannot be true."""
    try:
        if not abs(seconds) >= 86_400:
            return None
        moment = datetime.fromtimestamp(seconds)
    except (ValueError, OverflowError, OSError):
        return None
    return checked(moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)


def written_date(text: object) -> tuple[str | None, bool]:
    """A date as files write it, ISO 8601 or with colons, and whether it was in UTC (`Z`). A zone tells what the camera showed:
    its local time stays. A time in UTC is put into the zone of this machine."""
    match = _WRITTEN.match(str(text))
    if match is None or not match[2]:
        # A year alone is too little for a moment.
        return None, False
    year, month, day, hour, minute, second = (
        int(part) if part else least for part, least in zip(match.groups()[:6], (0, 1, 1, 0, 0, 0), strict=True)
    )
    taken = checked(year, month, day, hour, minute, second)
    if match[7] != "Z" or taken is None:
        return taken, False
    return local(datetime.fromisoformat(taken).replace(tzinfo=UTC).timestamp()), True


def date_in_name(stem: str) -> str | None:
    """The date, with its time where there is one, that a file's name carries: `IMG_20231225_183000`,
    `Screenshot 2023-12-25 at 6.30.00 PM`, `IMG-20231225-WA0001`, `mmexport1703529000000`."""
    for match in _IN_NAME.finditer(stem):
        year = int(match["year"])
        if not match["mark"] and year < _FIRST_YEAR_OF_NAMES:
            continue
        day = (year, int(match["month"]), int(match["day"]))
        if match["hour"] is not None:
            hour, half = int(match["hour"]), (match["half"] or "").upper()
            hour = hour % 12 + 12 * (half == "PM") if half else hour
            taken = checked(*day, hour, int(match["minute"]), int(match["second"]))
            if taken is not None:
                return _zoned(taken) if stem.startswith("PXL_") else taken
        if checked(*day) is not None:
            return checked(*day)
    milliseconds = _MILLISECONDS.search(stem)
    return local(int(milliseconds[1]) / 1000) if milliseconds else None


def _zoned(taken: str) -> str:
    """Google's Pixels name files by UTC."""
    return local(datetime.fromisoformat(taken).replace(tzinfo=UTC).timestamp()) or taken


def position(latitude: object, longitude: object) -> tuple[float | None, float | None]:
    """Degrees north and east; two Nones for what is no position. Nobody lives at 0, 0: programs write it for "not known"."""
    try:
        north, east = float(str(latitude)), float(str(longitude))
    except ValueError:
        return None, None
    if not (math.isfinite(north) and math.isfinite(east) and abs(north) <= 90 and abs(east) <= 180):
        return None, None
    if abs(north) < 1e-6 and abs(east) < 1e-6:
        return None, None
    return round(north, 7), round(east, 7)


def iso6709(text: str) -> tuple[float | None, float | None]:
    """Degrees from `+48.8584+002.2945+035/`; degrees, minutes and seconds may stand together (`+4851.50+00217.67`)."""
    match = _POSITION.match(text)
    if match is None:
        return None, None
    return position(_sexagesimal(match[1], 2), _sexagesimal(match[2], 3))


def _sexagesimal(text: str, digits: int) -> float:
    """`digits` of degrees, then two of minutes and two of seconds, whichever there are."""
    whole, _, fraction = text[1:].partition(".")
    parts = [whole[:digits], *(whole[at : at + 2] for at in range(digits, len(whole), 2))]
    parts[-1] += f".{fraction}" if fraction else ""
    value = math.fsum(float(part) / 60**power for power, part in enumerate(parts))
    return -value if text.startswith("-") else value


def rated(value: object) -> int | None:
    """Stars, 1 to 5; None for no rating, and for a picture that was rejected."""
    try:
        stars = float(str(value))
    except ValueError:
        return None
    return round(stars) if 0.5 <= stars <= 5.5 and round(stars) in range(1, 6) else None


def camera_name(make: object, model: object) -> str | None:
    """Make and model as one name, without what cannot be printed."""
    maker, name = _printable(str(make or "")), _printable(str(model or ""))
    if name.lower().startswith(maker.lower()):
        maker = ""
    return f"{maker} {name}".strip()[:100] or None


def phrases(texts: Iterable[object]) -> tuple[str, ...]:
    """Texts on one line each, without control characters, each once; those that say nothing are left out."""
    kept: dict[str, str] = {}
    size = 0
    for text in texts:
        phrase = _printable(str(text if text is not None else ""))[:_LONGEST_TEXT]
        if phrase and not _EMPTY_WORDS.fullmatch(phrase) and any(char.isalnum() for char in phrase):
            size += len(phrase) + 1
            if size > _MOST_WORDS:
                break
            kept.setdefault(phrase.casefold(), phrase)
    return tuple(kept.values())


def _printable(text: str) -> str:
    """One line of printable characters; line breaks and tabs become spaces."""
    spaced = " ".join(text[: 4 * _LONGEST_TEXT].split())
    kept = "".join(char for char in spaced if char.isprintable())
    return kept.encode("utf-8", "ignore").decode().strip()
