"""Damaged and truncated pictures: what can be decoded is searchable, and the ledger says what is missing."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.errors import MediaError
from media.frames import frame_at, sample
from media.image import DecodedImage, decode_image
from media.video import Ending, Frame, SampleConfig
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import picture
from tests.films import animation, same_picture
from tests.libraries import rows_of, run
from tests.test_formats import psd
from tests.test_images import encoded, far

FORMS: list[tuple[str, dict[str, object]]] = [
    ("JPEG", {"quality": 92}),
    ("JPEG", {"quality": 92, "progressive": True}),
    ("PNG", {}),
    ("WEBP", {"quality": 90}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("BMP", {}),
    ("GIF", {}),
    ("HEIF", {"quality": 90}),
    ("AVIF", {"quality": 90}),
]
# Those that are decoded at a lesser resolution, or in part, or not at all.
OTHERS: list[tuple[str, dict[str, object]]] = [
    ("JPEG2000", {}),
    ("JPEG2000", {"irreversible": True, "quality_layers": [20]}),
    ("GIF", {"interlace": False}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "jpeg"}),
    ("PPM", {}),
    ("JXL", {"quality": 90}),
    ("JXL", {"lossless": True}),
    ("PSD", {}),
    ("Adam7", {}),
]
WHOLE = picture(7, 400, 300)
# What a library says of its own insides explains nothing.
UNEXPLAINED = re.compile(r"unpack|buffer of|vendored|Generic|index out of range|no more images|NoneType|codec|object")


def made(form: str, **options: object) -> bytes:
    if form == "PSD":
        return psd(WHOLE)
    if form == "Adam7":
        return interlaced(WHOLE)
    if form == "JXL":
        pytest.importorskip("pillow_jxl")
    return encoded(WHOLE, form, **options)


def interlaced(image: Image.Image) -> bytes:
    """A PNG whose pixels come in seven passes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels, lines = np.asarray(image.convert("RGB")), b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        lines += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::across])
    head = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    packed = zlib.compress(lines)
    parts = [chunk(b"IDAT", packed[at : at + 4096]) for at in range(0, len(packed), 4096)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(parts) + chunk(b"IEND", b"")


def rows(decoded: DecodedImage, form: str = "") -> Image.Image:
    """The same rows of the whole picture; a bitmap begins with the last one."""
    if form == "BMP":
        return WHOLE.crop((0, 300 - decoded.rgb.height, 400, 300))
    return WHOLE.crop((0, 0, 400, decoded.rgb.height))


@pytest.mark.parametrize(("form", "options"), FORMS)
def test_what_lacks_its_last_tenth_is_decoded_and_says_so(form: str, options: dict[str, object]) -> None:
    whole = encoded(WHOLE, form, **options)
    decoded = decode_image(whole[: int(len(whole) * 0.9)], 300)
    assert (decoded.width, decoded.height) == (400, 300)
    assert decoded.rgb.height >= 0.7 * 300
    assert far(decoded.rgb, rows(decoded, form)) < 12
    assert decoded.missing is not None
    assert "missing" in decoded.missing and "\n" not in decoded.missing


@pytest.mark.parametrize(("form", "options"), FORMS[:-1])
def test_what_lacks_its_last_two_bytes_is_all_there(form: str, options: dict[str, object]) -> None:
    whole = encoded(WHOLE, form, **options)
    decoded = decode_image(whole[:-2], 300)
    assert decoded.rgb.height >= 0.9 * 300
    assert far(decoded.rgb, rows(decoded, form)) < 12


@pytest.mark.parametrize("share", [0.02, 0.2])
@pytest.mark.parametrize(("form", "options"), [pair for pair in FORMS if "progressive" not in pair[1]])
def test_below_a_third_of_its_rows_a_picture_fails_and_says_so(
    form: str, options: dict[str, object], share: float
) -> None:
    whole = encoded(WHOLE, form, **options)
    with pytest.raises(MediaError) as caught:
        decode_image(whole[: int(len(whole) * share)], 32)
    assert caught.value.stage == "decode"
    assert caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("form", "options"), FORMS + OTHERS)
def test_wherever_a_picture_ends_what_is_shown_of_it_is_right_or_it_fails_and_says_why(
    form: str, options: dict[str, object]
) -> None:
    whole = made(form, **options)
    reference = decode_image(whole, 300).rgb
    shown = []
    for share in (*np.linspace(0.01, 0.97, 25), 0.999):
        cut = whole[: int(len(whole) * share)]
        try:
            decoded = decode_image(cut, 300)
        except MediaError as error:
            assert error.stage == "decode"
            assert error.reason and "\n" not in error.reason
            assert not UNEXPLAINED.search(error.reason), error.reason
            continue
        shown.append(share)
        assert (decoded.width, decoded.height) == (400, 300)
        height, scale = decoded.rgb.height, reference.width / decoded.rgb.width
        assert height * scale >= 100
        top = 300 - height if form == "BMP" else 0
        same = reference.crop((0, top, 400, top + round(height * scale))).resize(decoded.rgb.size)
        # The first scans of a progressive picture are coarse.
        assert far(decoded.rgb, same) < (25 if "progressive" in options else 14), (form, share)
    if form == "JXL" or "compression" in options:
        assert len(shown) <= 2
    else:
        assert len(shown) >= 5
        assert min(shown) > 0.3 or "progressive" in options


def test_an_interlaced_picture_that_ends_early_is_shown_without_its_gaps() -> None:
    gif = encoded(WHOLE, "GIF")
    assert Image.open(io.BytesIO(gif)).tile[0].args[1]  # type: ignore[index]
    decoded = decode_image(gif[: int(len(gif) * 0.6)], 300)
    assert decoded.rgb.size == (400, 300)
    assert decoded.missing is not None and "% of its rows are missing" in decoded.missing
    png = decode_image(interlaced(WHOLE)[:-40_000], 150)
    assert png.rgb.size == (200, 150)
    assert far(png.rgb, WHOLE.resize((200, 150))) < 8


def test_a_tiff_whose_directory_is_cut_off_says_so() -> None:
    for options in ({"compression": "tiff_lzw"}, {"compression": "tiff_lzw", "big_tiff": True}):
        data = encoded(WHOLE, "TIFF", **options)
        with pytest.raises(MediaError, match="directory"):
            decode_image(data[: len(data) // 2], 224)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_that_ends_early_is_seen_as_far_as_it_goes(suffix: str, tmp_path: Path) -> None:
    animation(tmp_path / f"whole.{suffix}", (1, 2, 3, 4))
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    folder = tmp_path / "photos"
    folder.mkdir()
    file = folder / f"a.{suffix}"
    file.write_bytes(data[: len(data) * 6 // 10])
    events = list(sample(str(file), SampleConfig()))
    frames = [event for event in events if isinstance(event, Frame)]
    ending = events[-1]
    assert isinstance(ending, Ending) and ending.stopped and not UNEXPLAINED.search(ending.stopped)
    assert len(frames) == 2
    for frame, seed in zip(frames, (1, 2), strict=True):
        assert same_picture(frame.rgb, picture(seed, 160, 120)) < 12
    assert same_picture(frame_at(str(file), 1.7, 120), picture(2, 160, 120)) < 12
    report = run(tmp_path / "index", folder)
    assert (report.indexed, report.failed) == (1, 1)
    for end in range(1, len(data), len(data) // 25):
        file.write_bytes(data[:end])
        try:
            assert isinstance(list(sample(str(file), SampleConfig()))[-1], Ending)
        except MediaError as error:
            assert error.reason


def test_a_truncated_large_jpeg_is_still_decoded_at_a_fraction() -> None:
    whole = encoded(picture(3, 2400, 1800), "JPEG", quality=85)
    decoded = decode_image(whole[: len(whole) * 3 // 4], 224)
    assert decoded.rgb.width < 1000
    assert decoded.missing is not None
    assert 0.6 < decoded.rgb.height / (1800 * decoded.rgb.width / 2400) < 0.85


def test_a_truncated_bomb_is_still_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    with pytest.raises(MediaError, match="million pixels"):
        decode_image(head + b"\0\0\xff\xffIDAT" + bytes(100), 224)


def test_a_salvaged_picture_is_searchable_and_in_the_ledger_and_so_is_a_copy_of_it(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    out = io.BytesIO()
    WHOLE.save(out, "JPEG", quality=90)
    cut = out.getvalue()[: len(out.getvalue()) * 8 // 10]
    (media / "a.jpg").write_bytes(cut)
    report = run(index, media)
    assert (report.indexed, report.failed, report.items) == (1, 1, 1)
    (failure,) = read_failures(index, read_manifest(index))
    assert (failure.stage, failure.path) == ("decode", str(media / "a.jpg"))
    assert "missing" in failure.reason
    (media / "b.jpg").write_bytes(cut)
    run(index, media)
    assert len(rows_of(index)) == len(read_failures(index, read_manifest(index))) == 2
    again = run(index, media)
    assert (again.indexed, again.unchanged, again.failed) == (0, 2, 2)
    (media / "a.jpg").write_bytes(out.getvalue())
    run(index, media)
    assert [one.path for one in read_failures(index, read_manifest(index))] == [str(media / "b.jpg")]
    assert np.isfinite(report.seconds)
