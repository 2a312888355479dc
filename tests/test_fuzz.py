"""A little of the fuzz run of `benchmarks.fuzz`, so that what it found stays mended."""

from __future__ import annotations

import random

from benchmarks.fuzz import fuzz_images, fuzz_videos, mutated


def test_no_broken_picture_is_lost_without_a_reason() -> None:
    fuzzed = fuzz_images(150, 7, processes=1)
    assert fuzzed.lost == []
    assert sum(sum(counts.values()) for counts in fuzzed.outcomes.values()) == 150
    assert sum(counts["decoded"] for counts in fuzzed.outcomes.values()) > 10
    assert not sum(counts["hung"] for counts in fuzzed.outcomes.values())


def test_no_broken_film_is_lost_without_a_reason() -> None:
    fuzzed = fuzz_videos(20, 7)
    assert fuzzed.lost == []
    assert not sum(counts["hung"] for counts in fuzzed.outcomes.values())


def test_a_seed_gives_the_same_mutations() -> None:
    assert mutated(bytes(range(256)), random.Random(3)) == mutated(bytes(range(256)), random.Random(3))
