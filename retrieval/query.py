"""The query line: words, phrases, negatives, weights and filters in one line, and back.

    after:2023-06 in:holiday camera:iphone near:Paris~20km -people "exact words" a dog in the snow
    2:beach + sunset - people

A filter is one of `FILTERS`, a colon and a value, quoted where it has spaces; given twice, a file passes that passes either
(of dates the narrower counts). `"words"` must occur in the words of a hit. `-word` and `-"two words"` are what a hit should not
look like. A plus or minus between spaces parts terms, each of which may have a weight before a colon. Any other word with a
colon is a word, and so is whatever stands after a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from retrieval.errors import QueryError
from retrieval.filter import Filter, Near, check_kind, date_span
from retrieval.types import Query, Region, Term, check_region

FILTERS = ("after", "before", "on", "in", "name", "kind", "camera", "near", "rating")
_VALID = "the filters are " + ", ".join(f"{name}:" for name in FILTERS)
_QUOTES = {'"': '"', "“": "”", "„": "“”", "«": "»"}
# What is quoted up to each mark that ends it; between straight quotes a backslash stands before a quote or a backslash.
_QUOTED = {
    '"': re.compile(r'((?:[^"\\]|\\[\\"]|\\(?![\\"]))*+)"'),
    "”": re.compile(r"([^”]*)”"),
    "“”": re.compile(r"([^“”]*)[“”]"),
    "»": re.compile(r"([^»]*)»"),
}
_ESCAPED = re.compile(r'\\([\\"])')
_SPACE = re.compile(r"\s")
_NAME = re.compile(r"([A-Za-z]+):")
# Not `16:9` and not `10:30`.
_WEIGHT = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,24})?):(?=[^\W\d]|[\"“„«])")
_NEGATION = re.compile(
    r"\b(?:without|no|not|except|excluding)\s+(?:an?\s+|any\s+|the\s+)?([^\W\d_]{3,})\b", re.IGNORECASE
)
_POINT = re.compile(r"([+-]?[0-9]{1,3}(?:\.[0-9]*)?)\s*,\s*([+-]?[0-9]{1,3}(?:\.[0-9]*)?)", re.ASCII)
_DISTANCE = re.compile(
    r"(.*)~\s*([0-9]{1,5}(?:\.[0-9]+)?(?:e-?[0-9]+)?)\s*(?:km)?", re.ASCII | re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True)
class _Token:
    """A piece of a line: a `word`, a `phrase`, a `negative`, an `operator`, a `weight`, or a filter by its name."""

    kind: str
    text: str


def parse(line: str) -> Query:
    """The query that a line means; see the module. Raises `QueryError` for a filter whose value makes no sense."""
    phrases: list[str] = []
    negatives: list[str] = []
    filters: list[tuple[str, str]] = []
    terms = [_OpenTerm(1.0)]
    for token in _Line(line).tokens():
        if token.kind == "word":
            terms[-1].words.append(token.text)
        elif token.kind == "phrase":
            phrases.append(token.text)
        elif token.kind == "negative":
            negatives.append(token.text)
        elif token.kind == "operator":
            terms.append(_OpenTerm(1.0 if token.text == "+" else -1.0))
        elif token.kind == "weight":
            terms[-1].weight *= float(token.text)
        else:
            filters.append((token.kind, token.text))
    made = tuple(Term(text=" ".join(term.words), weight=term.weight) for term in terms if term.words)
    wanted = add_filters(Filter(phrases=tuple(phrases)), filters)
    return Query(terms=made, negatives=tuple(dict.fromkeys(negatives)), filter=wanted)


def to_line(query: Query) -> str:
    """The line that `parse` makes the words, negatives and filters of `query` of."""
    terms = query.terms or ((Term(text=query.text),) if query.text is not None and query.text.strip() else ())
    parts = [text for number, term in enumerate(terms) for text in _term_parts(term, first=number == 0)]
    wanted = query.filter if query.kind is None else replace(query.filter, kinds=(query.kind,))
    parts += [_quoted(phrase) for phrase in wanted.phrases]
    parts += [f"{name}:{_value(value)}" for name, value in filter_values(wanted)]
    parts += [f"-{_negative(text)}" for text in query.negatives]
    return " ".join(parts)


def filter_values(wanted: Filter) -> Iterator[tuple[str, str]]:
    """The filters of a line, without phrases: names and values."""
    for kind in wanted.kinds or ():
        yield "kind", kind
    for name, moment in (("after", wanted.after), ("before", wanted.before)):
        if moment is not None:
            yield name, _date(moment)
    for name, values in (("in", wanted.folders), ("name", wanted.names), ("camera", wanted.cameras)):
        for value in values:
            yield name, value
    if wanted.near is not None:
        near = wanted.near
        place = near.place if near.place is not None else f"{_number(near.latitude)},{_number(near.longitude)}"
        yield "near", f"{place}~{_number(near.km)}km"
    if wanted.rating is not None:
        yield "rating", str(wanted.rating)


def add_filters(wanted: Filter, given: Iterable[tuple[str, str]]) -> Filter:
    """`wanted` with filters as a line names them. Raises `QueryError`, which says what would make sense."""
    for name, value in given:
        if name not in _READERS:
            raise QueryError(f"there is no filter {name!r}; {_VALID}")
        text = value.strip()
        if not text:
            raise QueryError(f"{name}: needs {_NEEDS[name]}, without a space before it")
        try:
            wanted = _READERS[name](wanted, text)
        except QueryError as error:
            raise QueryError(f"{name}:{value[:64]}: {error}") from error
    return wanted


def parse_region(text: str) -> Region:
    """A part of a picture from `X,Y,W,H`: left, top, width and height in fractions of its sides. Raises `QueryError`."""
    try:
        left, top, width, height = (float(side) for side in text.split(","))
    except ValueError as error:
        raise QueryError(
            f"region {text[:64]!r} is not left,top,width,height in fractions of the picture's sides, as in 0.25,0.25,0.5,0.5"
        ) from error
    check_region((left, top, width, height))
    return left, top, width, height


def hint(query: Query) -> str | None:
    """A line for whoever wrote "without glasses": a model reads that as glasses. None where nothing is negated in words."""
    match = _NEGATION.search(query.words or "")
    return f"to leave out {match.group(1)}, write -{match.group(1)}" if match is not None else None


@dataclass
class _OpenTerm:
    """A term that is being read."""

    weight: float

    def __post_init__(self) -> None:
        self.words: list[str] = []


class _Line:
    """A line that is read once from left to right, in time that follows its length."""

    def __init__(self, line: str) -> None:
        self._line = line
        # Where the run of letters without a space ends that was met last.
        self._stop = 0
        # Marks that end a quotation of which there is no more: one that begins later has none either.
        self._unclosed: set[str] = set()

    def tokens(self) -> Iterator[_Token]:
        """Raises `QueryError`."""
        line, at, opens = self._line, 0, True
        while at < len(line):
            if line[at].isspace():
                at += 1
                continue
            stop = self._end(at)
            if stop - at == 1 and line[at] in "+-":
                yield _Token("operator", line[at])
                at, opens = stop, True
                continue
            weight = _WEIGHT.match(line, at) if opens else None
            if weight is not None and float(weight.group(1)) > 0 and not self._is_open(weight.end()):
                text, at = self._read_value(weight.end())
                if text.split():
                    yield _Token("weight", weight.group(1))
                    yield from (_Token("word", part) for part in text.split())
                opens = False
                continue
            token, at = self._read_token(at, stop)
            if token is not None:
                yield token
                opens = opens and token.kind != "word"

    def _read_token(self, at: int, stop: int) -> tuple[_Token | None, int]:
        """The token at `at`, whose text ends at `stop` where nothing in it is quoted; and where the next one begins."""
        line = self._line
        first, following = line[at], line[at + 1 : min(at + 2, stop)]
        if first == "\\" and following:
            return _Token("word", line[at + 1 : stop]), stop
        if first in _QUOTES:
            quoted, end = self._read_quoted(at)
            if end is not None:
                text = " ".join(quoted.split())
                return (_Token("phrase", text) if text else None), end
        if first == "-" and following and following != "-":
            name = _NAME.match(line, at + 1)
            if name is not None and name.group(1).lower() in FILTERS:
                raise QueryError(f"{line[at:stop][:64]}: only words can be left out, as in -people; {_VALID}")
            quoted, end = self._read_quoted(at + 1)
            if end is not None:
                text = " ".join(quoted.split())
                return (_Token("negative", text) if text else None), end
            return _Token("negative", line[at + 1 : stop]), stop
        name = _NAME.match(line, at)
        if name is not None and name.group(1).lower() in FILTERS:
            value, end = self._read_value(name.end())
            return _Token(name.group(1).lower(), value), end
        return _Token("word", line[at:stop]), stop

    def _end(self, at: int) -> int:
        """Where the letters at `at` end, at a space or with the line."""
        if at >= self._stop:
            space = _SPACE.search(self._line, at)
            self._stop = len(self._line) if space is None else space.start()
        return self._stop

    def _is_open(self, at: int) -> bool:
        """Whether a quotation begins here that does not end."""
        return self._line[at : at + 1] in _QUOTES and self._read_quoted(at)[1] is None

    def _read_value(self, at: int) -> tuple[str, int]:
        """A value up to the next space, with what is quoted at its beginning."""
        quoted, end = self._read_quoted(at)
        start = at if end is None else end
        stop = self._end(start)
        return quoted + self._line[start:stop], stop

    def _read_quoted(self, at: int) -> tuple[str, int | None]:
        """What is quoted from `at` on, and where it ends; an empty text and None where nothing is."""
        closing = _QUOTES.get(self._line[at : at + 1])
        if closing is None or closing in self._unclosed:
            return "", None
        quoted = _QUOTED[closing].match(self._line, at + 1)
        if quoted is None:
            self._unclosed.add(closing)
            return "", None
        text = quoted.group(1)
        return (_ESCAPED.sub(r"\1", text) if closing == '"' else text), quoted.end()


def _read_kind(wanted: Filter, text: str) -> Filter:
    return replace(wanted, kinds=(*(wanted.kinds or ()), check_kind(text.lower())))


def _read_after(wanted: Filter, text: str) -> Filter:
    start = date_span(text)[0]
    return replace(wanted, after=start if wanted.after is None else max(start, wanted.after))


def _read_before(wanted: Filter, text: str) -> Filter:
    return _until(wanted, date_span(text)[0])


def _read_on(wanted: Filter, text: str) -> Filter:
    return _until(_read_after(wanted, text), date_span(text)[1])


def _until(wanted: Filter, stop: datetime | None) -> Filter:
    if stop is None:
        return wanted
    return replace(wanted, before=stop if wanted.before is None else min(stop, wanted.before))


def _read_near(wanted: Filter, text: str) -> Filter:
    if wanted.near is not None:
        raise QueryError("there is a place already; one at a time")
    distance = _DISTANCE.fullmatch(text)
    place, km = (distance.group(1).strip(), float(distance.group(2))) if distance is not None else (text, Near.km)
    point = _POINT.fullmatch(place)
    if point is not None:
        near = Near(latitude=float(point.group(1)), longitude=float(point.group(2)), km=km)
    elif re.search(r"[^\W\d_]", place) and "~" not in place:
        near = Near(place=place, km=km)
    else:
        raise QueryError(f"needs {_NEEDS['near']}")
    return replace(wanted, near=near)


def _read_rating(wanted: Filter, text: str) -> Filter:
    if re.fullmatch(r"[1-5]", text) is None:
        raise QueryError("needs a number of stars, 1 to 5")
    return replace(wanted, rating=max(int(text), wanted.rating or 0))


_READERS: dict[str, Callable[[Filter, str], Filter]] = {
    "after": _read_after,
    "before": _read_before,
    "on": _read_on,
    "in": lambda wanted, text: replace(wanted, folders=(*wanted.folders, text)),
    "name": lambda wanted, text: replace(wanted, names=(*wanted.names, text)),
    "kind": _read_kind,
    "camera": lambda wanted, text: replace(wanted, cameras=(*wanted.cameras, text)),
    "near": _read_near,
    "rating": _read_rating,
}
_A_DATE = "a year, a month or a day (2023, 2023-06, 2023-06-30)"
_NEEDS = {
    "after": _A_DATE,
    "before": _A_DATE,
    "on": _A_DATE,
    "in": "the name of a folder or a path below the index's folder (in:holiday/2023)",
    "name": "a part of a file's name (name:IMG_20)",
    "kind": "image, video or text",
    "camera": "a part of a camera's name (camera:iphone)",
    "near": "a place or a latitude and a longitude, and kilometres if you like (near:Paris~20km, near:48.86,2.35~20km)",
    "rating": "a number of stars (rating:4 is four or five)",
}


def _date(moment: datetime) -> str:
    """The shortest text of which `date_span` begins at `moment`."""
    if moment.hour or moment.minute or moment.second:
        return moment.isoformat(timespec="seconds" if moment.second else "minutes")
    if moment.day != 1:
        return moment.date().isoformat()
    return f"{moment.year:04}" if moment.month == 1 else f"{moment.year:04}-{moment.month:02}"


def _number(value: float | None) -> str:
    return format(Decimal(repr(float(value or 0))).normalize(), "f")


def _term_parts(term: Term, *, first: bool) -> Iterator[str]:
    if term.weight < 0 or not first:
        yield "-" if term.weight < 0 else "+"
    if abs(term.weight) == 1:
        yield from (_plain(word) for word in term.text.split())
    else:
        words = " ".join(term.text.split())
        yield f"{_number(abs(term.weight))}:{words if words.isalpha() else _quoted(words)}"


def _plain(word: str) -> str:
    """A word that is read as one, with a backslash where it would not."""
    name = _NAME.match(word)
    is_filter = name is not None and name.group(1).lower() in FILTERS
    odd = word[0] in "\\-" or word[0] in _QUOTES or word == "+" or is_filter or _WEIGHT.match(word) is not None
    return f"\\{word}" if odd else word


def _negative(text: str) -> str:
    return _quoted(text) if len(text.split()) != 1 or _plain(text) != text or text.strip() != text else text


def _value(text: str) -> str:
    return _quoted(text) if text[0] in _QUOTES or any(char.isspace() for char in text) else text


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
