"""Cameras' raw files, made small: the directories, the preview and the sensor's values lie as in the real ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

Entry = tuple[int, int, Sequence[int] | Sequence[tuple[int, int]] | bytes]
# What the directories' types are in `struct`.
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 10: "ii"}
# The matrix from XYZ to linear sRGB, in ten-thousandths: a camera that sees as a screen shows.
_MATRIX = (32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572)
_CFA: list[Entry] = [(33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2])]


def directory(entries: Sequence[Entry], at: int) -> bytes:
    """A TIFF directory that stands `at` its place in the file, with what does not fit into its entries behind it."""
    head, data = struct.pack("<H", len(entries)), b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in sorted(entries, key=lambda entry: entry[0]):
        if isinstance(values, bytes):
            raw = values
        else:
            flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
            raw = struct.pack("<" + _TYPES[kind] * len(values), *flat)
        field = raw.ljust(4, b"\0")
        if len(raw) > 4:
            data += bytes((behind + len(data)) % 2)
            field, data = struct.pack("<I", behind + len(data)), data + raw
        head += struct.pack("<HHI", tag, kind, len(values)) + field
    return head + bytes(4) + data


def jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **({"exif": exif} if exif is not None else {}))
    return out.getvalue()


def mosaic(image: Image.Image) -> bytes:
    """What a sensor behind red, green and blue filters sees of a picture, 16 bits a pixel, black at 1,000."""
    light = (np.asarray(image.convert("RGB"), np.float32) / 255) ** 2.2
    seen = light[..., 1].copy()
    seen[0::2, 0::2], seen[1::2, 1::2] = light[0::2, 0::2, 0], light[1::2, 1::2, 2]
    return (seen * 60_000 + 1000).astype("<u2").tobytes()


def dng(image: Image.Image, preview: Image.Image | None = None, orientation: int = 1) -> bytes:
    """An Adobe DNG: the sensor's values first, the preview in a directory below."""
    raw, small = mosaic(image), jpeg(preview) if preview is not None else b""

    def directories(sub: int, raw_at: int, small_at: int) -> tuple[bytes, bytes]:
        main: list[Entry] = [
            (254, 4, [0]), (256, 4, [image.width]), (257, 4, [image.height]), (258, 3, [16]), (259, 3, [1]),
            (262, 3, [32803]), (271, 2, b"Acme\0"), (272, 2, b"Acme One\0"), (273, 4, [raw_at]), (274, 3, [orientation]),
            (277, 3, [1]), (278, 4, [image.height]), (279, 4, [len(raw)]), (306, 2, b"2023:12:25 18:30:00\0"), *_CFA,
            (50706, 1, [1, 4, 0, 0]), (50708, 2, b"Acme One\0"), (50714, 3, [1000]), (50717, 4, [61_000]),
            (50721, 10, [(value, 10_000) for value in _MATRIX]), (50728, 5, [(1, 1)] * 3), (50778, 3, [21]),
        ]  # fmt: skip
        if preview is None:
            return directory(main, 8), b""
        below: list[Entry] = [
            (254, 4, [1]), (256, 4, [preview.width]), (257, 4, [preview.height]), (258, 3, [8, 8, 8]), (259, 3, [7]),
            (262, 3, [6]), (273, 4, [small_at]), (277, 3, [3]), (278, 4, [preview.height]), (279, 4, [len(small)]),
        ]  # fmt: skip
        return directory([*main, (330, 4, [sub])], 8), directory(below, sub)

    first, second = directories(0, 0, 0)
    sub = 8 + len(first) + len(first) % 2
    raw_at = sub + len(second) + len(second) % 2
    first, second = directories(sub, raw_at, raw_at + len(raw))
    head = (struct.pack("<2sHI", b"II", 42, 8) + first).ljust(sub, b"\0") + second
    return head.ljust(raw_at, b"\0") + raw + small


# How the files of each maker begin, and what its cameras call themselves.
MAKERS = {
    "nef": (b"II*\0", b"NIKON CORPORATION\0", b"NIKON D70\0"),
    "arw": (b"II*\0", b"SONY\0", b"DSLR-A700\0"),
    "pef": (b"II*\0", b"PENTAX\0", b"PENTAX K10D\0"),
    "orf": (b"IIRO", b"OLYMPUS IMAGING CORP.\0", b"E-510\0"),
    "rw2": (b"IIU\0", b"Panasonic\0", b"DMC-GH1\0"),
    "cr2": (b"II*\0CR\2\0\0\0\0\0", b"Canon\0", b"Canon EOS 20D\0"),
    "srw": (b"II*\0", b"SAMSUNG\0", b"NX10\0"),
}


def maker_raw(kind: str, image: Image.Image, preview: Image.Image, orientation: int = 6) -> bytes:
    """A raw file of one of the `MAKERS`: a TIFF whose first directory is the preview, with the sensor's values below it."""
    magic, make, model = MAKERS[kind]
    raw, small = mosaic(image), jpeg(preview)
    start = 16 if len(magic) > 4 else 8

    def directories(sub: int, small_at: int, raw_at: int) -> tuple[bytes, bytes]:
        main: list[Entry] = [
            (256, 4, [preview.width]), (257, 4, [preview.height]), (258, 3, [8, 8, 8]), (259, 3, [6]), (262, 3, [6]),
            (271, 2, make), (272, 2, model), (273, 4, [small_at]), (274, 3, [orientation]), (277, 3, [3]),
            (278, 4, [preview.height]), (279, 4, [len(small)]), (306, 2, b"2023:12:25 18:30:00\0"), (330, 4, [sub]),
        ]  # fmt: skip
        below: list[Entry] = [
            (254, 4, [0]), (256, 4, [image.width]), (257, 4, [image.height]), (258, 3, [16]), (259, 3, [1]),
            (262, 3, [32803]), (273, 4, [raw_at]), (277, 3, [1]), (278, 4, [image.height]), (279, 4, [len(raw)]), *_CFA,
        ]  # fmt: skip
        return directory(main, start), directory(below, sub)

    first, second = directories(0, 0, 0)
    sub = start + len(first) + len(first) % 2
    small_at = sub + len(second) + len(second) % 2
    raw_at = small_at + len(small) + len(small) % 2
    first, second = directories(sub, small_at, raw_at)
    head = (magic[:4] + struct.pack("<I", start) + magic[4:]).ljust(start, b"\0")
    return ((head + first).ljust(sub, b"\0") + second).ljust(small_at, b"\0") + small + bytes(len(small) % 2) + raw


def raf(image: Image.Image, preview: Image.Image) -> bytes:
    """A raw file of Fujifilm: a table of three places, and the preview with the EXIF."""
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "FUJIFILM", "FinePix S5Pro", "2023:12:25 18:30:00"
    raw, small = mosaic(image), jpeg(preview, exif)
    facts = struct.pack(">IHHHH", 1, 0x100, 4, image.height, image.width)
    small_at = 160
    facts_at = small_at + len(small) + len(small) % 2
    table = struct.pack(">IIIIII", small_at, len(small), facts_at, len(facts), facts_at + len(facts), len(raw))
    head = b"FUJIFILMCCD-RAW 0201FF383501" + b"FinePix S5Pro".ljust(32, b"\0") + b"0100" + bytes(20) + table
    return (head.ljust(small_at, b"\0") + small).ljust(facts_at, b"\0") + facts + raw
