"""`python -m media.decoder`: decodes images in a process of its own, so that one that crashes a codec costs itself alone.

A request is a line of JSON on standard input, followed by the encoded bytes, or one that names a PDF and a page of it; an
answer is a line of JSON on standard output, followed by RGB bytes, or `{"error"}`. A PDF without a page is asked for its texts.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from media.child import bound_memory
from media.errors import MediaError
from media.image import decode_image, decode_page
from media.pages import read_document

# Beside what a picture of the largest size takes: libraries, tables, the encoded bytes.
_BASE_BYTES = 3 * 1024**3
# Bytes a pixel that decoding may take: four in Pillow, and as many again in a codec or a conversion.
_BYTES_PER_PIXEL = 12


def main() -> int:
    """Serve requests until the input ends."""
    # Libraries may print: our answers get a descriptor that they do not know of.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["bytes"])
        max_pixels = int(request["max_pixels"])
        bound_memory(_BASE_BYTES + _BYTES_PER_PIXEL * max_pixels)
        pixels = b""
        answer: dict[str, object]
        try:
            if "document" in request and not request["page"]:
                answer = asdict(read_document(_path(request)))
                out.write(json.dumps(answer).encode() + b"\n")
                out.flush()
                continue
            if "document" in request:
                decoded = decode_page(_path(request), request["page"], request["min_side"])
            else:
                decoded = decode_image(data, request["min_side"], name=request["name"], max_pixels=max_pixels)
            answer = {name: value for name, value in vars(decoded).items() if name != "rgb"}
            answer["size"], pixels = decoded.rgb.size, decoded.rgb.tobytes()
        except MediaError as error:
            answer = {"error": [error.stage, error.reason]}
        except MemoryError:
            answer = {"error": ["decode", "the picture does not fit in memory"]}
        out.write(json.dumps(answer).encode() + b"\n")
        out.write(pixels)
        out.flush()
    return 0


def _path(request: dict[str, str]) -> str:
    return os.fsdecode(bytes.fromhex(request["document"]))


if __name__ == "__main__":
    raise SystemExit(main())
