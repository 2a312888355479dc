"""Places without a network: positions to names, names in many languages to positions."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import QueryError
from retrieval.gazetteer import fold, gazetteer


@pytest.mark.parametrize(
    ("position", "place"),
    [
        ((48.8584, 2.2945), "Paris, Île-de-France, France"),  # The Eiffel Tower, nearer to an arrondissement's centre
        ((48.8397, 2.2399), "Boulogne-Billancourt, Île-de-France, France"),
        ((35.6586, 139.7454), "Tokyo, Japan"),  # A region of the city's own name is said once
        ((-33.8568, 151.2153), "Sydney, New South Wales, Australia"),
        ((41.9029, 12.4534), "Vatican City, Vatican"),  # Not Rome, however large: another country
        ((-16.85, -179.99), "Savusavu, Northern, Fiji"),  # The nearest city lies across the date line
        ((25.0, -30.0), None),
        ((89.9, 10.0), None),
        ((float("nan"), 2.0), None),
        ((91.0, 2.0), None),
        ((48.0, float("inf")), None),
    ],
)
def test_a_position_has_the_name_that_people_use(cache: Path, position: tuple[float, float], place: str | None) -> None:
    assert gazetteer().place(*position) == place


def test_a_position_lies_in_the_region_of_the_nearest_city_of_all(cache: Path) -> None:
    """Only a band of latitudes is looked at, and a city's reach is bounded by its region."""
    cities = gazetteer()
    rng = np.random.default_rng(5)
    north, east = np.deg2rad(cities.latitudes.astype(float)), np.deg2rad(cities.longitudes.astype(float))
    points = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], 1)
    for city in rng.integers(0, len(points), 40).tolist():
        latitude = float(np.clip(cities.latitudes[city] + rng.normal(0, 0.5), -90, 90))
        longitude = float((cities.longitudes[city] + rng.normal(0, 0.5) + 180) % 360 - 180)
        here = np.deg2rad([latitude, longitude])
        point = np.array([np.cos(here[0]) * np.cos(here[1]), np.cos(here[0]) * np.sin(here[1]), np.sin(here[0])])
        apart = 6371 * 2 * np.arcsin(np.linalg.norm(points - point, axis=1) / 2)
        nearest = int(np.argmin(apart))
        place = cities.place(latitude, longitude)
        _, _, region, country = cities.regions[cities.region_of[nearest]]
        assert (place is None) == (apart[nearest] > 100)
        assert place is None or (place.endswith(country) and region in place)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("paris", "Paris, Île-de-France, France"),
        ("Paris, Texas", "Paris, Texas, United States"),
        ("paris, tx", "Paris, Texas, United States"),
        ("München", "Munich, Bavaria, Germany"),
        ("munchen", "Munich, Bavaria, Germany"),
        ("Мюнхен", "Munich, Bavaria, Germany"),
        ("東京", "Tokyo, Japan"),
        ("Nizza", "Nice, Provence-Alpes-Côte d'Azur, France"),
        ("lodz", "Łódź, Łódź Voivodeship, Poland"),
        ("New York", "New York City, New York, United States"),
        ("London, Ontario, Canada", "London, Ontario, Canada"),
    ],
)
def test_a_name_in_any_common_language_has_a_position(cache: Path, name: str, place: str) -> None:
    assert gazetteer().place(*gazetteer().locate(name)) == place


def test_an_unknown_name_is_answered_with_close_ones(cache: Path) -> None:
    with pytest.raises(QueryError, match=r"no city is called 'Lissbon'; did you mean Lisbon"):
        gazetteer().locate("Lissbon")
    with pytest.raises(QueryError, match=r"did you mean Springfield, Missouri"):
        gazetteer().locate("Springfield, Atlantis")
    for nonsense in ("", " , ", "\0", "x" * 5000, "'\"-- ;"):
        with pytest.raises(QueryError, match="give it as LATITUDE,LONGITUDE"):
            gazetteer().locate(nonsense)


def test_names_fold_to_one_form() -> None:
    assert fold("Saint-Étienne") == fold("SAINT  ETIENNE") == "saint etienne"
    assert fold("Łódź") == "lodz"
    assert fold("Straße") == fold("STRASSE")


def test_the_kept_arrays_open_at_once_and_a_damaged_file_is_made_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gazetteer()
    (file,) = cache.glob("places-*.npz")
    gazetteer.cache_clear()
    began = time.process_time()
    gazetteer().locate("Paris")
    assert time.process_time() - began < 1.0
    gazetteer.cache_clear()
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path))
    (tmp_path / file.name).write_bytes(file.read_bytes()[:1000])
    assert gazetteer().place(48.8584, 2.2945) == "Paris, Île-de-France, France"
    assert (tmp_path / file.name).stat().st_size == file.stat().st_size
    gazetteer.cache_clear()
