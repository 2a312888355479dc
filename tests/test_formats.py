"""Formats that cameras, phones and drawing programs write, and what their colours mean."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from media.colors import HLG, PQ, Signal, to_rgb, to_srgb, tone_mapped
from media.errors import MediaError
from media.foreign import hint_of
from media.image import decode_image
from media.isolated import ImageDecoder
from media.walk import source_kind
from tests.conftest import picture
from tests.test_images import encoded, far

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 100">{}</svg>'


def drawn(inside: str) -> Image.Image:
    return decode_image(SVG.format(inside).encode(), 64).rgb


def test_a_drawing_is_rasterised_over_white() -> None:
    data = SVG.format('<rect width="100" height="100" fill="red"/>').encode()
    for form in (data, gzip.compress(data), b'<?xml version="1.0"?>\n' + data, data.decode().encode("utf-16")):
        decoded = decode_image(form, 64)
        assert (decoded.width, decoded.height) == (200, 100)
        pixels = np.asarray(decoded.rgb)
        assert min(decoded.rgb.size) >= 64
        assert tuple(pixels[10, 10]) == (255, 0, 0)
        assert tuple(pixels[10, -10]) == (255, 255, 255)


@pytest.mark.parametrize("href", ["{path}", "file://{path}", "&#x2f;{path}", " {path}"])
@pytest.mark.parametrize("attribute", ["href", "xlink:href"])
def test_a_drawing_opens_no_file(tmp_path: Path, href: str, attribute: str) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (10, 10), "blue").save(secret)
    target = href.format(path=secret)
    image = f'<image xmlns:xlink="http://www.w3.org/1999/xlink" {attribute}="{target}" width="200" height="100"/>'
    assert np.asarray(drawn(image)).min() == 255
    assert np.asarray(drawn(image.replace('"', "'"))).min() == 255


def test_a_drawing_whose_entities_grow_is_refused() -> None:
    bomb = '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>' + SVG.format("<text>&b;</text>")
    with pytest.raises(MediaError, match="entities"):
        decode_image(bomb.encode(), 64)
    with pytest.raises(MediaError, match="MB"):
        decode_image(gzip.compress(b"<svg>" + b" " * (40 << 20)), 64)


def test_scripts_in_a_drawing_do_nothing_and_huge_ones_stay_small() -> None:
    assert np.asarray(drawn("<script>alert(1)</script>")).min() == 255
    huge = '<svg xmlns="http://www.w3.org/2000/svg" width="90000" height="90000"><rect width="9" height="9"/></svg>'
    assert decode_image(huge.encode(), 64).rgb.width < 4100


def test_the_first_page_of_a_document_is_its_picture() -> None:
    pytest.importorskip("pypdfium2")
    pages = [Image.new("RGB", (200, 300), "red"), Image.new("RGB", (200, 300), "blue")]
    data = encoded(pages[0], "PDF", save_all=True, append_images=pages[1:], resolution=72)
    decoded = decode_image(data, 64)
    assert (decoded.width, decoded.height) == (200, 300)
    assert abs(np.asarray(decoded.rgb)[30, 30].astype(int) - (255, 0, 0)).max() < 6
    with ImageDecoder(1) as decoder:
        assert decoder.decode(data, 64).width == 200
        with pytest.raises(MediaError, match="PDF"):
            decoder.decode(data[:200], 64)


@pytest.mark.parametrize("tail", [b"", b"\0\0\0\x18ftypmp42" + bytes(5000), b"MotionPhoto_Data" + bytes(900)])
def test_a_photo_with_more_behind_it_is_decoded_at_a_fraction(tail: bytes) -> None:
    second = encoded(picture(4, 800, 600), "JPEG")
    data = encoded(picture(3, 1600, 1200), "JPEG", quality=90) + second + tail
    decoded = decode_image(data, 200)
    assert (decoded.width, decoded.height, decoded.missing) == (1600, 1200, None)
    assert decoded.rgb.height < 400
    assert far(decoded.rgb.resize((64, 48)), picture(3, 1600, 1200).resize((64, 48))) < 4


def test_jpeg_xl_gives_back_its_picture() -> None:
    pytest.importorskip("pillow_jxl")
    original = picture(1, 200, 150)
    decoded = decode_image(encoded(original, "JXL", lossless=True), 150)
    assert far(decoded.rgb, original) < 1
    assert (decoded.width, decoded.height) == (200, 150)


def psd(image: Image.Image) -> bytes:
    """A Photoshop document of one merged picture, uncompressed."""
    width, height = image.size
    header = b"8BPS\0\1" + bytes(6) + (3).to_bytes(2, "big")
    header += height.to_bytes(4, "big") + width.to_bytes(4, "big") + (8).to_bytes(2, "big") + (3).to_bytes(2, "big")
    planes = b"".join(band.tobytes() for band in image.split())
    return header + bytes(12) + b"\0\0" + planes


def test_a_photoshop_document_shows_its_merged_picture() -> None:
    original = picture(2, 60, 40)
    decoded = decode_image(psd(original), 40)
    assert far(decoded.rgb, original) < 1


def test_a_postscript_file_shows_its_preview_and_is_never_run() -> None:
    preview = encoded(picture(3, 60, 40), "TIFF")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n"
    head = b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + len(program).to_bytes(4, "little") + bytes(8)
    head += (32 + len(program)).to_bytes(4, "little") + len(preview).to_bytes(4, "little") + b"\xff\xff\0\0"
    assert far(decode_image(head + program + preview, 40).rgb, picture(3, 60, 40)) < 1
    with pytest.raises(MediaError, match="preview"):
        decode_image(program, 40)


def test_a_raw_file_shows_the_preview_that_the_camera_put_in() -> None:
    pytest.importorskip("rawpy")
    assert source_kind("a.NEF") == source_kind("b.dng") == "image"
    # A plain TIFF of such a name is no raw file: the reason says so, and nothing crashes.
    with pytest.raises(MediaError, match="raw"):
        decode_image(encoded(picture(3), "TIFF"), 40, name="x.nef")


def test_what_an_extra_would_read_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert hint_of({".nef": 3, ".docx": 1, ".jxl": 2}) == [
        "3 .nef, 2 .jxl can be indexed, too, after: pip install 'mmsearch[formats]'"
    ]


Primaries = list[tuple[float, float]]
P3: Primaries = [(0.680, 0.320), (0.265, 0.690), (0.150, 0.060)]
ADOBE: Primaries = [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]
SRGB: Primaries = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]


def to_xyz(primaries: Primaries) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, np.array([0.95047, 1, 1.08883])))


def in_srgb(primaries: Primaries, stored: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What values of gamma 2.2 with these primaries are in sRGB."""
    linear = np.linalg.solve(to_xyz(SRGB), to_xyz(primaries) @ (np.array(stored) / 255) ** 2.2)
    return np.asarray(255 * (1.055 * linear ** (1 / 2.4) - 0.055))


def profile_of(primaries: Primaries) -> bytes:
    """An ICC profile of RGB primaries (xy) with a gamma of 2.2 and white D65: enough of one, as scanners write them."""

    def tag(kind: bytes, body: bytes) -> bytes:
        return kind + bytes(4) + body

    def xyz(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
        return tag(b"XYZ ", b"".join(struct.pack(">i", round(65536 * value)) for value in values))

    white = np.array([0.95047, 1, 1.08883])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    matrix = adapt @ to_xyz(primaries)
    curve = tag(b"curv", struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2))
    text = tag(b"desc", struct.pack(">I", 5) + b"test\0" + bytes(78))
    tags = {
        b"desc": text, b"wtpt": xyz(d50), b"rXYZ": xyz(matrix[:, 0]), b"gXYZ": xyz(matrix[:, 1]),
        b"bXYZ": xyz(matrix[:, 2]), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cprt": tag(b"text", b"none"),
    }  # fmt: skip
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", place + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(struct.pack(">i", round(65536 * v)) for v in d50)
    return head + bytes(128 - len(head)) + table + body


@pytest.mark.parametrize(
    ("primaries", "stored"),
    [(P3, (200, 120, 90)), (P3, (128, 128, 128)), (ADOBE, (150, 160, 100)), (SRGB, (9, 200, 70))],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colours_of_a_profile_become_those_of_srgb(
    primaries: Primaries, stored: tuple[int, int, int], form: str
) -> None:
    options: dict[str, object] = {"quality": 98} if form in ("JPEG", "WEBP") else {}
    data = encoded(Image.new("RGB", (64, 64), stored), form, icc_profile=profile_of(primaries), **options)
    pixel = np.asarray(decode_image(data, 32).rgb)[16, 16].astype(int)
    assert abs(pixel - in_srgb(primaries, stored)).max() <= 5, pixel


def test_a_profile_that_is_damaged_or_of_other_channels_does_not_cost_the_picture() -> None:
    original = picture(4)
    for profile in (b"no profile", profile_of(P3)[:200], profile_of(P3)[:-30]):
        assert far(decode_image(encoded(original, "PNG", icc_profile=profile), 48).rgb, original) < 12
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert far(to_srgb(original, lab), original) < 1
    assert to_srgb(original.convert("RGBA"), profile_of(P3)).mode == "RGB"


def test_one_lamp_does_not_leave_a_float_picture_black() -> None:
    room = np.full((64, 64), 0.4, np.float32)
    room[::2] = 0.8
    room[3, 3] = 5000.0
    grey = np.asarray(to_rgb(Image.fromarray(room)))
    assert abs(int(grey[10, 10, 0]) - int(grey[11, 10, 0])) > 60


def pq(nits: float) -> int:
    power = (nits / 10_000) ** 0.1593017578125
    signal: float = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return round(255 * signal)


@pytest.mark.parametrize(
    ("transfer", "white", "grey"),
    [(PQ, pq(203), pq(26)), (HLG, round(0.75 * 255), round(0.38 * 255))],
)
def test_reference_white_of_hdr_comes_out_near_white_and_grey_stays_grey(transfer: int, white: int, grey: int) -> None:
    def shown(value: int) -> int:
        pixel = np.asarray(tone_mapped(Image.new("RGB", (2, 2), (value,) * 3), Signal(9, transfer)))[0, 0].astype(int)
        assert np.ptp(pixel) <= 1
        return int(pixel[0])

    assert shown(white) >= 235
    assert abs(shown(grey) - 101) <= 6
    assert shown(0) == 0
    assert shown(255) >= 250
    levels = [shown(value) for value in range(0, 256, 8)]
    assert levels == sorted(levels)


def _avif(image: Image.Image) -> bytes:
    return encoded(image, "AVIF", quality=95)


@pytest.mark.parametrize("make", [_avif])
def test_a_pq_picture_of_a_phone_is_tone_mapped(make: Callable[[Image.Image], bytes]) -> None:
    data = make(Image.new("RGB", (64, 64), (pq(203),) * 3))
    place = data.index(b"colrnclx") + 8
    marked = data[:place] + (9).to_bytes(2, "big") + (16).to_bytes(2, "big") + data[place + 4 :]
    plain, mapped = (np.asarray(decode_image(one, 32).rgb)[10, 10, 0] for one in (data, marked))
    assert plain < 160
    assert mapped >= 230


def test_more_than_the_bound_is_refused_and_the_bound_can_be_set() -> None:
    data = encoded(Image.new("L", (300, 200)), "PNG")
    with pytest.raises(MediaError, match="--max-pixels"):
        decode_image(data, 32, max_pixels=50_000)
    assert decode_image(data, 32, max_pixels=60_000).width == 300
    assert decode_image(io.BytesIO(data).getvalue(), 32).height == 200
