"""Copies over plain arrays: hashes against brute force, names, and groups whose members are all like the best."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.copies.grouping import BURST_COSINE, Fingerprints, group_copies, looks_alike
from retrieval.copies.hashes import BANDS, LEAST_BITS, band_table, distances, near_pairs, telling
from retrieval.copies.stacks import Role, folder_and_name, stack_of

Pairs = set[tuple[int, int]]


def flipped(hashes: NDArray[np.uint64], bits: int, seed: int) -> NDArray[np.uint64]:
    """Each hash with so many random bits turned."""
    rng = np.random.default_rng(seed)
    masks = np.zeros(len(hashes), np.uint64)
    for row in range(len(hashes)):
        for bit in rng.choice(64, bits, replace=False).tolist():
            masks[row] |= np.uint64(1) << np.uint64(bit)
    return hashes ^ masks


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_near_hashes_are_found_as_by_comparing_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, 300, np.uint64)
    hashes = np.concatenate([base, *(flipped(base[:40], bits, seed) for bits in range(1, 13))])
    queries = np.concatenate([base[:40], rng.integers(0, 2**64, 20, np.uint64)])
    a, b = near_pairs(queries, hashes, band_table(hashes))
    bits = np.bitwise_count(queries[:, None] ^ hashes[None])
    telling_pairs = telling(queries)[:, None] & telling(hashes)[None]
    sure = np.argwhere((bits <= 2 * BANDS - 1) & telling_pairs)
    assert {tuple(pair) for pair in sure.tolist()} <= set(zip(a.tolist(), b.tolist(), strict=True))
    assert (distances(queries[a], hashes[b]) <= 10).all() and (np.diff(a) >= 0).all()


def test_hashes_with_the_highest_bit_are_like_any_other() -> None:
    """A signed hash is negative: shifting it as such smears its sign over the bands."""
    hashes = np.array([-1, -(2**63), 0x7FFF0000FFFF0000, -0x7FFF0000FFFF0000], np.int64).view(np.uint64)
    near = hashes ^ np.uint64(1)
    a, b = near_pairs(near, hashes, band_table(hashes))
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == {(2, 2), (3, 3)}
    assert telling(hashes).tolist() == [False, False, True, True]


def test_hashes_that_say_nothing_have_no_neighbours() -> None:
    few = np.uint64((1 << (LEAST_BITS - 1)) - 1)
    hashes = np.array([0, few, ~np.uint64(0), ~few], np.uint64)
    assert len(near_pairs(hashes, hashes, band_table(hashes))[0]) == 0


def test_thousands_of_equal_hashes_take_no_time() -> None:
    hashes = np.full(20_000, 0x0F0F0F0F0F0F0F0F, np.uint64)
    began = time.monotonic()
    a, _ = near_pairs(hashes, hashes, band_table(hashes))
    assert len(a) == 32 * len(hashes) and time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("name", "stack", "role"),
    [
        ("IMG_1234.HEIC", "img_1234", Role.PHOTO),
        ("IMG_E1234.HEIC", "img_1234", Role.EDIT),
        ("IMG_EGG.jpg", "img_egg", Role.PHOTO),
        ("DSC_0001.NEF", "dsc_0001", Role.RAW),
        ("Beach-edited.jpg", "beach", Role.EDIT),
        ("Beach-edited(2).jpg", "beach(2)", Role.EDIT),
        ("Strand-bearbeitet.jpg", "strand", Role.EDIT),
        ("plage-modifie\u0301.jpg", "plage", Role.EDIT),
        ("edited.jpg", "edited", Role.PHOTO),
        ("00000IMG_00000_BURST20240102030405678_COVER.jpg", "burst 20240102030405678", Role.COVER),
        ("00001IMG_00001_BURST20240102030405678.jpg", "burst 20240102030405678", Role.BURST),
        ("IMG_20240102_030405_BURST002.jpg", "burst img_20240102_030405", Role.BURST),
        ("sunburst.jpg", "sunburst", Role.PHOTO),
        ("no suffix", "no suffix", Role.PHOTO),
        (".jpg", ".jpg", Role.PHOTO),
    ],
)
def test_names_say_what_a_file_is(name: str, stack: str, role: Role) -> None:
    assert stack_of(name, False) == (stack, role)


def test_films_of_phones_are_told_from_others() -> None:
    assert stack_of("IMG_1234.MOV", True) == ("img_1234", Role.FILM)
    assert stack_of("talk.mkv", True)[1] == Role.OTHER_FILM
    assert folder_and_name("a/b/c.jpg") == ("a/b", "c.jpg")
    assert folder_and_name("a/set.tar::d/e.jpg") == ("a/set.tar::d", "e.jpg")


def prints(count: int, **columns: object) -> Fingerprints:
    """So many pictures of no relation; `columns` say what is known of them."""
    rng = np.random.default_rng(0)
    values: dict[str, object] = {
        "places": np.arange(count),
        "hashes": rng.integers(0, 2**64, count, np.uint64),
        "contents": np.arange(1, count + 1),
        "stacks": np.zeros(count),
        "cameras": np.zeros(count),
        "taken": np.zeros(count),
        "sizes": np.full(count, 1000),
        "widths": np.full(count, 400),
        "heights": np.full(count, 300),
        "seconds": np.zeros(count),
        "roles": np.full(count, Role.PHOTO),
        **columns,
    }
    kinds = ["i8", "u8", "u8", "u8", "u8", "i8", "i8", "i4", "i4", "f4", "u1"]
    return Fingerprints(
        *(
            np.asarray(value, np.uint64 if kind == "u8" else kind)
            for value, kind in zip(values.values(), kinds, strict=True)
        )
    )


def on_a_circle(*degrees: float) -> NDArray[np.float32]:
    """Unit rows `(n, 2)` at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def every_pair(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    a, b = np.triu_indices(count, 1)
    return a.astype(np.int64), b.astype(np.int64)


def grouped(given: Fingerprints, embeddings: NDArray[np.float32]) -> list[tuple[str, list[int]]]:
    return [(group.kind, group.rows.tolist()) for group in group_copies(given, embeddings, *every_pair(len(given)))]


HASH = 0x0F0F33335555AAAA


def test_a_chain_of_likenesses_is_no_group() -> None:
    """Each picture is like the next: only those like the best belong to it."""
    given = prints(6, hashes=[HASH] * 6, sizes=[6, 5, 4, 3, 2, 1])
    made = grouped(given, on_a_circle(0, 25, 50, 75, 100, 125))
    assert made == [("near", [0, 1]), ("near", [2, 3]), ("near", [4, 5])]


def test_two_beaches_are_two_pictures() -> None:
    """Sky above sand gives nearly equal hashes: the embeddings tell them apart, or the times at which they were taken."""
    both = prints(2, hashes=[HASH, HASH ^ 0b111])
    assert grouped(both, on_a_circle(0, 40)) == []
    assert grouped(both, on_a_circle(0, 10)) == [("near", [0, 1])]
    assert grouped(prints(2, hashes=[HASH, HASH], taken=[1000, 5000]), on_a_circle(0, 10)) == []
    assert grouped(prints(2, hashes=[HASH, HASH], taken=[1000, 0]), on_a_circle(0, 10)) == [("near", [0, 1])]
    assert grouped(prints(2, hashes=[HASH, HASH], widths=[400, 300], heights=[300, 400]), on_a_circle(0, 10)) == []


def test_more_bits_that_differ_need_more_likeness() -> None:
    given = prints(2, hashes=[HASH, HASH ^ 0b11_1111_1111])
    pair = np.array([0]), np.array([1])
    cosines = [0.82, 0.90, 0.96]
    assert [bool(looks_alike(given, *pair, np.array([cosine], np.float32))[0]) for cosine in cosines] == [
        False,
        False,
        True,
    ]


def test_the_best_has_most_pixels_and_is_no_edit_and_no_raw_file() -> None:
    given = prints(
        4,
        stacks=[7] * 4,
        roles=[Role.RAW, Role.EDIT, Role.PHOTO, Role.FILM],
        widths=[6000, 400, 400, 1920],
        seconds=[0, 0, 0, 3],
    )
    assert grouped(given, on_a_circle(0, 5, 5, 5)) == [("stack", [2, 1, 0, 3])]


def test_a_film_of_another_thing_is_not_the_film_of_its_namesake() -> None:
    roles = [Role.PHOTO, Role.FILM]
    long = prints(2, stacks=[7, 7], roles=roles, seconds=[0, 60])
    strange = prints(2, stacks=[7, 7], roles=roles, seconds=[0, 3])
    assert grouped(long, on_a_circle(0, 5)) == [] and grouped(strange, on_a_circle(0, 90)) == []


def test_a_burst_is_of_one_camera_within_seconds_and_looks_alike() -> None:
    angle = np.degrees(np.arccos(BURST_COSINE)) - 1
    given = prints(5, cameras=[3, 3, 3, 4, 3], taken=[100, 101, 110, 100, 100])
    assert grouped(given, on_a_circle(0, angle, 0, 0, 90)) == [("stack", [0, 1])]


def test_what_an_edit_is_like_joins_the_photo() -> None:
    """A reduced copy of the edit lies elsewhere: it is like the edit, not like the photo."""
    given = prints(
        3,
        hashes=[1 << 40, HASH, HASH],
        stacks=[7, 7, 0],
        roles=[Role.PHOTO, Role.EDIT, Role.PHOTO],
        widths=[400, 400, 200],
        heights=[300, 300, 150],
    )
    assert grouped(given, on_a_circle(0, 80, 82)) == [("stack", [0, 1, 2])]


def test_times_beyond_the_range_of_a_hash_are_no_error() -> None:
    given = prints(3, cameras=[2**64 - 1, 2**63, 0], taken=[-5, 2**62, 7])
    assert (given.shots(-2)[:2] != 0).all() and given.shots()[2] == 0
