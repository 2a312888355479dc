"""Images by decoders that may crash: in processes apart, kept alive. JPEG and PNG, nearly all there is, are decoded here."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from types import TracebackType
from typing import Any

from PIL import Image

from media.child import Child
from media.drawings import is_drawing
from media.errors import MediaError
from media.foreign import RAW_SUFFIXES
from media.image import DecodedImage, decode_image
from media.opening import format_of
from media.pages import Document
from media.types import MAX_PIXELS

# Their decoders are as old as the formats, and fuzzed the most of all.
_TRUSTED = frozenset(("JPEG", "PNG"))
PATIENCE_SECONDS = 120.0


class ImageDecoder:
    """Decodes images; any thread may call it, and at most `processes` decode apart at once. They start when first needed.
    Use as a context manager."""

    def __init__(self, processes: int, max_pixels: int = MAX_PIXELS, patience: float = PATIENCE_SECONDS) -> None:
        self._max_pixels = max_pixels
        self._children: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        self._all = [_Decoder(patience) for _ in range(max(1, processes))]
        for child in self._all:
            self._children.put(child)

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, data: bytes, min_side: int, name: str = "") -> DecodedImage:
        """`media.image.decode_image`, with a bound in time, too. Raises `MediaError`, also where the decoder crashed."""
        if _is_trusted(data, name):
            return decode_image(data, min_side, name=name, max_pixels=self._max_pixels)
        answer, rgb = self._asked({"min_side": min_side, "name": name}, data)
        return DecodedImage(rgb=rgb, **answer)

    def page(self, path: str, number: int, min_side: int) -> DecodedImage:
        """`media.image.decode_page`, likewise."""
        document = os.fsencode(path).hex()
        answer, rgb = self._asked({"document": document, "page": number, "min_side": min_side})
        return DecodedImage(rgb=rgb, **answer)

    def document(self, path: str) -> Document:
        """`media.pages.read_document`, likewise."""
        answer, _ = self._asked({"document": os.fsencode(path).hex(), "page": 0})
        return Document(pages=answer["pages"], texts=tuple(answer["texts"]))

    def _asked(self, request: dict[str, object], data: bytes = b"") -> tuple[dict[str, Any], Image.Image]:
        child = self._children.get()
        try:
            return child.ask({**request, "max_pixels": self._max_pixels}, data)
        finally:
            self._children.put(child)

    def close(self) -> None:
        """End the processes; whoever waits for one is told so."""
        for child in self._all:
            child.close()


def _is_trusted(data: bytes, name: str) -> bool:
    if name.lower().endswith(tuple(RAW_SUFFIXES)) or is_drawing(data[:512]) or b"%PDF-" in data[:1024]:
        return False
    try:
        return not data or format_of(data[:512]) in _TRUSTED
    except MediaError:
        # No format at all: the one who decodes it says so.
        return True


class _Decoder:
    """One decoding process."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._child = Child("media.decoder", one_thread=True)

    def ask(self, request: dict[str, object], data: bytes) -> tuple[dict[str, Any], Image.Image]:
        """What it answers, and a picture of no size where that is none. Raises `MediaError`."""
        process = self._child.started()
        alarm = threading.Timer(self._patience, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            return _asked(process, {**request, "bytes": len(data)}, data)
        except (OSError, ValueError, KeyError) as error:
            hung = not alarm.is_alive()
            self.close()
            why = f"took more than {self._patience:.0f} s" if hung else "crashed on this file"
            raise MediaError("decode", f"the decoder {why}") from error
        finally:
            alarm.cancel()

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _asked(
    process: subprocess.Popen[bytes], request: dict[str, object], data: bytes
) -> tuple[dict[str, Any], Image.Image]:
    """Raises `OSError`, `ValueError` or `KeyError` where the process ended, `MediaError` for what it says."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the process was started with pipes")
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.write(data)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if "error" in answer:
        raise MediaError(*answer["error"])
    width, height = answer.pop("size", (0, 0))
    return answer, Image.frombytes("RGB", (width, height), process.stdout.read(3 * width * height))
