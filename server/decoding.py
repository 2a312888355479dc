"""`python -m server.decoding`: decodes uploaded images in a process of its own, whose memory has a bound and ends with it.

A request is the number of bytes in eight bytes and the bytes themselves, on standard input; an answer is a line of JSON on
standard output, `{"width", "height"}` followed by the RGB bytes, or `{"error"}`.
"""

from __future__ import annotations

import json
import os
import sys

from media.child import bound_memory
from media.errors import MediaError
from media.image import decode_image

SIDE = 512
# A strip is made small along its longer side as well, or it would stay as large as it came.
_LONGEST = 8 * SIDE
MEMORY_BYTES = 1280 * 1024**2


def main() -> int:
    """Serve requests until the input ends."""
    bound_memory(MEMORY_BYTES)
    # Libraries may print: our answers get a descriptor that they do not know of.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while len(head := sys.stdin.buffer.read(8)) == 8:
        data = sys.stdin.buffer.read(int.from_bytes(head, "big"))
        answer: dict[str, object]
        pixels = b""
        try:
            rgb = decode_image(data, SIDE).rgb
            rgb.thumbnail((_LONGEST, _LONGEST))
            answer, pixels = {"width": rgb.width, "height": rgb.height}, rgb.tobytes()
        except MediaError as error:
            answer = {"error": error.reason}
        except MemoryError:
            answer = {"error": "the picture does not fit in memory"}
        out.write(json.dumps(answer).encode() + b"\n")
        out.write(pixels)
        out.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
