"""What mmsearch wrote itself carries a mark, so that an index of the folder where it was put leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

MARK = "mmsearch"
# The comment of a container of video, in whatever case the format keeps the names of its tags.
COMMENT = "comment"
_PNG_KEY = "Software"
_PNG = b"\x89PNG\r\n\x1a\n"
# Pillow writes texts before the pixels: right after the header.
_PNG_HEAD = 512


def png_mark() -> PngInfo:
    """What `Image.save` takes as `pnginfo`."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_PNG_KEY, MARK)
    return info


def is_marked_image(data: bytes) -> bool:
    """Whether an encoded image is a PNG with the mark."""
    return data.startswith(_PNG) and f"tEXt{_PNG_KEY}\0{MARK}".encode() in data[:_PNG_HEAD]


def is_marked_container(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of a container of video has the mark."""
    return any(key.lower() == COMMENT and value == MARK for key, value in metadata.items())
