"""Damaged and truncated pictures: what can be decoded is searchable, and the ledger says what is missing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.errors import MediaError
from media.image import DecodedImage, decode_image
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import picture
from tests.libraries import rows_of, run
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
WHOLE = picture(7, 400, 300)


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
