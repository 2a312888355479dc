"""Cameras' raw files: the preview that the camera put in, else the whole picture, upright, with its true size and facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from media.errors import MediaError
from media.image import decode_image
from media.metadata import file_facts, image_facts
from media.walk import source_kind
from tests.conftest import picture
from tests.libraries import run
from tests.raws import MAKERS, dng, maker_raw, raf
from tests.test_images import far

pytest.importorskip("rawpy")
# What the sensor saw, and a preview that shows something else: which one was taken can be told.
SENSOR, PREVIEW = picture(7, 400, 300), picture(9, 400, 300)


def test_without_a_preview_the_sensor_is_developed() -> None:
    for orientation, turn in ((1, 0), (3, 180), (6, -90), (8, 90)):
        decoded = decode_image(dng(SENSOR, orientation=orientation), 150, name="a.dng")
        upright = SENSOR.rotate(turn, expand=True)
        assert (decoded.width, decoded.height) == upright.size
        assert min(decoded.rgb.size) == 150
        assert far(decoded.rgb, upright.resize(decoded.rgb.size)) < 16


def test_a_preview_that_is_large_enough_is_shown_and_a_small_one_is_not() -> None:
    decoded = decode_image(dng(SENSOR, PREVIEW), 150, name="a.DNG")
    assert far(decoded.rgb, PREVIEW.resize(decoded.rgb.size)) < 4
    small = decode_image(dng(SENSOR, PREVIEW.resize((80, 60))), 200, name="a.dng")
    assert (small.width, small.height) == (400, 300)
    assert far(small.rgb, SENSOR.resize(small.rgb.size)) < 16


def test_a_sensor_of_more_pixels_than_allowed_is_not_developed() -> None:
    with pytest.raises(MediaError, match=r"400×300 is more than 0 million pixels \(--max-pixels\)"):
        decode_image(dng(SENSOR), 150, name="a.dng", max_pixels=100_000)
    small = decode_image(dng(SENSOR, PREVIEW.resize((80, 60))), 200, name="a.dng", max_pixels=100_000)
    assert (small.rgb.size, small.width) == ((80, 60), 400)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_preview_of_each_maker_is_shown_upright(kind: str) -> None:
    for orientation, turn in ((6, -90), (8, 90), (1, 0)):
        decoded = decode_image(maker_raw(kind, SENSOR, PREVIEW, orientation), 150, name=f"a.{kind}")
        upright = PREVIEW.rotate(turn, expand=True)
        assert far(decoded.rgb, upright.resize(decoded.rgb.size)) < 4
        # LibRaw crops some sensors by a pixel.
        assert max(abs(decoded.width - upright.width), abs(decoded.height - upright.height)) <= 1


def test_a_raw_file_of_fujifilm_shows_its_preview() -> None:
    decoded = decode_image(raf(SENSOR, PREVIEW), 150, name="a.raf")
    assert far(decoded.rgb, PREVIEW.resize(decoded.rgb.size)) < 4
    assert (decoded.width, decoded.height) == (400, 300)


@pytest.mark.parametrize("kind", [*MAKERS, "dng", "raf"])
def test_the_camera_and_the_date_are_read_from_each(kind: str, tmp_path: Path) -> None:
    """ORF and RW2 begin like no TIFF, and RAF is none: their facts were nobody's."""
    made = {"dng": dng, "raf": raf}
    data = made[kind](SENSOR, PREVIEW) if kind in made else maker_raw(kind, SENSOR, PREVIEW)
    (tmp_path / f"a.{kind}").write_bytes(data)
    for facts in (image_facts(data), file_facts(str(tmp_path / f"a.{kind}"))):
        assert (facts.taken_at, facts.date_source) == ("2023-12-25T18:30:00", "exif")
        assert facts.camera is not None


@pytest.mark.parametrize("kind", ["dng", "nef", "raf"])
def test_a_raw_file_that_ends_anywhere_shows_its_preview_or_says_why_not(kind: str, tmp_path: Path) -> None:
    assert source_kind(f"a.{kind}") == "image"
    made = {"dng": dng, "raf": raf}
    data = made[kind](SENSOR, PREVIEW) if kind in made else maker_raw(kind, SENSOR, PREVIEW, 1)
    shown = 0
    for share in (0.001, 0.02, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999):
        try:
            decoded = decode_image(data[: int(len(data) * share)], 150, name=f"a.{kind}")
        except MediaError as error:
            assert error.reason and "\n" not in error.reason and "Input/output" not in error.reason
        else:
            shown += 1
            assert min(far(decoded.rgb, whole.resize(decoded.rgb.size)) for whole in (PREVIEW, SENSOR)) < 30
    # Where the preview comes first, most of what is cut off is not needed.
    assert shown >= 3 or kind == "dng"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / f"a.{kind}").write_bytes(data)
    report = run(tmp_path / "index", tmp_path / "photos")
    assert (report.indexed, report.failed) == (1, 0)
