"""`python -m media.decoder`: decodes images in a process of its own, so that one that crashes a codec costs itself alone.

A request is a line of JSON on standard input, followed by the encoded bytes; an answer is a line of JSON on standard output,
followed by RGB bytes, or `{"error"}`.
"""

from __future__ import annotations

import json
import os
import sys

from media.child import bound_memory
from media.errors import MediaError
from media.image import decode_image

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


if __name__ == "__main__":
    raise SystemExit(main())
