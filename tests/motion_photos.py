"""Photos with a film inside of them, made as phones make them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from PIL import Image

_SPACES = (
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"'
)


def xmp(attributes: str, inside: str = "") -> bytes:
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {_SPACES}><rdf:Description {attributes}>{inside}</rdf:Description>'
        f"</rdf:RDF></x:xmpmeta>"
    ).encode()


def directory(*items: tuple[str, int, int], as_elements: bool = False) -> bytes:
    """The packet of a photo with these parts: what each is, its length, and the padding behind it."""
    parts = []
    for name, length, padding in items:
        values = {"Mime": "video/mp4", "Semantic": name, "Length": length, "Padding": padding}
        if as_elements:
            inner = "".join(f"<Item:{key}>{value}</Item:{key}>" for key, value in values.items())
            part = f'<Container:Item rdf:parseType="Resource">{inner}</Container:Item>'
        else:
            part = "<Container:Item " + " ".join(f'Item:{key}="{value}"' for key, value in values.items()) + "/>"
        parts.append(f'<rdf:li rdf:parseType="Resource">{part}</rdf:li>')
    listed = f"<Container:Directory><rdf:Seq>{''.join(parts)}</rdf:Seq></Container:Directory>"
    return xmp('GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"', listed)


def still(image: Image.Image, packet: bytes = b"", form: str = "JPEG") -> bytes:
    if form == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    out = io.BytesIO()
    image.save(out, form, quality=92, **({"xmp": packet} if packet else {}))
    return out.getvalue()


def google(image: Image.Image, film: bytes, *, as_elements: bool = False) -> bytes:
    """As Pixels write it now."""
    packet = directory(("Primary", 0, 0), ("MotionPhoto", len(film), 0), as_elements=as_elements)
    return still(image, packet) + film


def with_gain_map(image: Image.Image, film: bytes) -> bytes:
    """As Pixels write an Ultra HDR photo."""
    gains = still(image.convert("L").resize((32, 24)))
    packet = directory(("Primary", 0, 0), ("GainMap", len(gains), 0), ("MotionPhoto", len(film), 0))
    return still(image, packet) + gains + film


def micro_video(image: Image.Image, film: bytes) -> bytes:
    """As Pixels and Xiaomi wrote it until 2020."""
    return still(image, xmp(f'GCamera:MicroVideo="1" GCamera:MicroVideoOffset="{len(film)}"')) + film


def samsung(image: Image.Image, film: bytes, form: str = "JPEG") -> bytes:
    """As Galaxies write it, with another block before and one behind."""

    def block(kind: int, name: bytes, data: bytes) -> bytes:
        return struct.pack("<HHI", 0, kind, len(name)) + name + data

    blocks = [
        (0x0A01, block(0x0A01, b"Image_UTC_Data", b"1703529000000")),
        (0x0A30, block(0x0A30, b"MotionPhoto_Data", film)),
        (0x0A41, block(0x0A41, b"MotionPhoto_Version", b"mpv3")),
    ]
    table = b"SEFH" + struct.pack("<II", 106, len(blocks))
    before = sum(len(data) for _, data in blocks)
    for kind, data in blocks:
        table += struct.pack("<HHII", 0, kind, before, len(data))
        before -= len(data)
    trailer = b"".join(data for _, data in blocks)
    return still(image, form=form) + trailer + table + struct.pack("<I", len(table)) + b"SEFT"


def boxed(image: Image.Image, film: bytes, form: str = "HEIF") -> bytes:
    """As phones write a HEIC or AVIF photo with a film: a box at the end."""
    return still(image, form=form) + struct.pack(">I", 8 + len(film)) + b"mpvd" + film


KINDS: dict[str, Callable[[Image.Image, bytes], bytes]] = {
    "google.jpg": google,
    "elements.jpg": lambda image, film: google(image, film, as_elements=True),
    "gains.jpg": with_gain_map,
    "micro.jpg": micro_video,
    "samsung.jpg": samsung,
    "boxed.heic": boxed,
    "boxed.avif": lambda image, film: boxed(image, film, "AVIF"),
    "samsung.heic": lambda image, film: samsung(image, film, "HEIF"),
}
