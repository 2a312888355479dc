"""Decoding: every format and colour mode that people have, and every way in which a file can be bad."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin
from pillow_heif import register_heif_opener

from media import image as module
from media.colors import to_rgb
from media.facts import NO_FACTS
from media.image import decode_image, difference_hash
from media.metadata import image_facts
from retrieval.errors import MediaError
from tests.conftest import ROOT, picture

# Pillow alone cannot write HEIC.
register_heif_opener()


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def far(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


@pytest.mark.parametrize(
    ("form", "options", "error"),
    [
        ("JPEG", {"quality": 95}, 4.0),
        ("PNG", {}, 0.0),
        ("WEBP", {"lossless": True}, 0.0),
        ("AVIF", {"quality": 95}, 5.0),
        ("HEIF", {"quality": 95}, 8.0),
        ("TIFF", {}, 0.0),
        ("TIFF", {"compression": "tiff_lzw"}, 0.0),
        ("BMP", {}, 0.0),
        ("JPEG2000", {"irreversible": False}, 0.5),
        ("PPM", {}, 0.0),
    ],
)
def test_every_format_gives_back_its_picture(form: str, options: dict[str, object], error: float) -> None:
    original = picture(1)
    decoded = decode_image(encoded(original, form, **options), 32)
    assert decoded.rgb.mode == "RGB"
    assert (decoded.width, decoded.height) == original.size
    assert far(decoded.rgb, original) <= error


def test_a_gif_shows_its_first_opaque_frame() -> None:
    empty = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    red = Image.new("RGBA", (40, 30), (250, 10, 10, 255))
    data = encoded(empty, "GIF", save_all=True, append_images=[red], disposal=2, transparency=0)
    assert np.asarray(decode_image(data, 16).rgb)[15, 20, 0] > 200


def test_a_tiff_shows_its_first_page() -> None:
    data = encoded(
        Image.new("RGB", (20, 20), "red"), "TIFF", save_all=True, append_images=[Image.new("RGB", (20, 20), "blue")]
    )
    assert tuple(np.asarray(decode_image(data, 16).rgb)[5, 5]) == (255, 0, 0)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        grey = np.asarray(decode_image(encoded(Image.fromarray(ramp), form), 32).rgb)[..., 0].astype(float)
        assert abs(grey.mean() - 127.5) < 2, form
        assert grey.min() < 3, form
        assert grey.max() > 252, form


def test_float_and_wide_integer_pictures_are_scaled_to_their_range() -> None:
    ramp = np.linspace(-3, 9, 400, dtype=np.float32).reshape(20, 20)
    grey = np.asarray(to_rgb(Image.fromarray(ramp, "F")))
    assert (grey.min(), grey.max()) == (0, 255)
    unit = np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 0.5, np.float32), "F")))
    assert set(unit.reshape(-1)) == {128}
    assert np.asarray(to_rgb(Image.fromarray(np.zeros((4, 4), np.int32), "I"))).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    original = picture(2)
    converted = Image.fromarray(np.asarray(original)).convert("L" if mode == "1" else "RGB")
    if mode == "LAB":
        from PIL import ImageCms

        lab = ImageCms.createProfile("LAB")
        turn = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
        turned = ImageCms.applyTransform(original, turn)
        assert turned is not None
        converted = turned
    else:
        converted = converted.convert(mode)
    rgb = to_rgb(converted)
    assert rgb.mode == "RGB"
    if mode in ("CMYK", "YCbCr", "HSV"):
        assert far(rgb, original) < 8


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("RGB", (32, 32), (200, 20, 30))
    pixel = np.asarray(decode_image(encoded(red.convert("CMYK"), "JPEG", quality=95), 16).rgb)[8, 8].astype(int)
    assert abs(pixel - [200, 20, 30]).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(mode: str) -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    data = encoded(clear.convert("P"), "PNG", transparency=0) if mode == "P" else encoded(clear.convert(mode), "PNG")
    assert np.asarray(decode_image(data, 8).rgb).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation: int) -> None:
    original = picture(3, 80, 40)
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
    stored = original
    for turn in turns.get(orientation, []):
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    decoded = decode_image(encoded(stored, "JPEG", quality=96, exif=exif), 16)
    assert (decoded.width, decoded.height) == (80, 40)
    assert decoded.rgb.size[0] == 2 * decoded.rgb.size[1]
    assert far(decoded.rgb.resize((80, 40)), original) < 12


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encoded(picture(5), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert decode_image(data, 16).width == 64
    assert image_facts(data) == NO_FACTS


def test_a_large_jpeg_is_decoded_near_the_size_that_is_needed() -> None:
    data = encoded(picture(6, 2400, 1800), "JPEG", quality=80)
    decoded = decode_image(data, 224)
    assert (decoded.width, decoded.height) == (2400, 1800)
    assert 224 <= min(decoded.rgb.size) < 448
    assert far(decoded.rgb.resize((64, 48)), picture(6, 2400, 1800).resize((64, 48))) < 3


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not an image at all", b"\xff\xd8\xff\xe0" + b"x" * 50, b"GIF89a"])
def test_what_is_no_image_fails(data: bytes) -> None:
    with pytest.raises(MediaError):
        decode_image(data, 32)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = encoded(Image.new("1", (20_000, 16_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(MediaError, match="million pixels"):
        decode_image(bomb, 224)


def test_one_large_picture_still_decodes() -> None:
    assert module._LARGE < 5000 * 5000
    decoded = decode_image(encoded(Image.new("L", (5000, 5000), 90), "PNG"), 224)
    assert 224 <= min(decoded.rgb.size) < 1000
    assert (decoded.width, decoded.height) == (5000, 5000)


def test_the_difference_hash_is_near_for_near_pictures_and_far_for_others() -> None:
    def apart(one: int, other: int) -> int:
        return ((one ^ other) & (2**64 - 1)).bit_count()

    base = picture(8, 300, 200)
    small = decode_image(encoded(base.resize((150, 100)), "JPEG", quality=60), 32).rgb
    assert apart(difference_hash(base), difference_hash(small)) <= 6
    assert apart(difference_hash(base), difference_hash(picture(9, 300, 200))) >= 16
    assert -(2**63) <= difference_hash(base) < 2**63


def test_decoders_chatter_never_reaches_the_terminal(tmp_path: Path) -> None:
    """libtiff complains on file descriptor 2 about a bad tag; the muffler must keep that, and only that, away."""
    data = bytearray(encoded(picture(10), "TIFF", compression="tiff_lzw"))
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "bad.tif").write_bytes(bytes(data))
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom cli.terminal import quiet_native_stderr\n"
        "with quiet_native_stderr():\n    os.write(2, b'native chatter')\n    print('ours', file=sys.stderr)\n"
        "    from media.image import decode_image\n    from retrieval.errors import MediaError\n"
        f"    data = Path({str(tmp_path / 'bad.tif')!r}).read_bytes()\n"
        "    try:\n        decode_image(data, 32)\n    except MediaError:\n        pass\n"
        "os.write(2, b'after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "ours\nafter"


def test_decoding_changes_nothing_of_the_program_that_it_is_part_of() -> None:
    program = """
import gc, io, warnings
import numpy
from PIL import Image
before = Image.MAX_IMAGE_PIXELS, list(warnings.filters), gc.isenabled(), gc.get_threshold()
import mmsearch
from media.image import decode_image
out = io.BytesIO()
Image.new("RGB", (40, 40)).save(out, "PNG")
assert decode_image(out.getvalue(), 20).width == 40
Image.init()
assert "HEIF" not in Image.ID
assert before == (Image.MAX_IMAGE_PIXELS, list(warnings.filters), gc.isenabled(), gc.get_threshold())
assert gc.get_freeze_count() == 0
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_photo_with_a_second_view_is_decoded_at_a_fraction_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    picture(3).resize((1600, 1200)).save(out, "MPO", save_all=True, append_images=[picture(4)])
    drafts: list[tuple[int, int] | None] = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def counted(self: JpegImagePlugin.JpegImageFile, mode: str | None, size: tuple[int, int] | None) -> object:
        drafts.append(size)
        return draft(self, mode, size)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", counted)
    decoded = decode_image(out.getvalue(), 200)
    assert (decoded.width, decoded.height, drafts) == (1600, 1200, [(200, 200)])
    assert min(decoded.rgb.size) < 1200


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at:end]))
        at = end
    return found


def test_what_a_png_says_behind_its_pixels_is_read_without_decoding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow decodes a PNG, however large, to look for EXIF behind the pixels: facts cost as much as the picture."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Model] = 6, "Acme 1"
    whole = encoded(picture(3, 60, 40), "PNG", exif=exif)
    chunks = chunks_of(whole)
    late = [raw for kind, raw in chunks if kind == b"eXIf"]
    pixels = [raw for kind, raw in chunks if kind not in (b"eXIf", b"IEND")]
    for png in (whole, whole[:8] + b"".join((*pixels, *late, chunks[-1][1]))):
        decoded = decode_image(png, 40)
        assert (decoded.width, decoded.height, decoded.rgb.size) == (40, 60, (40, 60))
        with monkeypatch.context() as bare:
            bare.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
            assert image_facts(png).camera == "Acme 1"


def test_a_png_that_is_too_large_is_refused_before_its_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("L", (3000, 3000)), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("pixels were decoded"))
    with pytest.raises(MediaError, match="million pixels"):
        decode_image(bomb, 32, max_pixels=1_000_000)
    assert image_facts(bomb).words == ()
