"""Images to search by that clients send: decoded small in processes apart, kept for a while under the hash of their bytes."""

from __future__ import annotations

import hashlib
import io
import json
import queue
import subprocess
import threading
from collections import OrderedDict
from typing import BinaryIO

from PIL import Image
from starlette.requests import Request

from media.child import Child
from retrieval.cancellation import Cancellation
from retrieval.errors import MmsearchError, QueryError
from server.lanes import Lane
from server.metrics import Metrics

PROCESSES = 2
_WAITING = 12
_KEPT_BYTES = 64 * 1024**2
_SECONDS = 30.0


class ImageNotFoundError(MmsearchError):
    """No image of this hash is kept (any more)."""


class Uploads:
    """Takes images and gives them back by their hash. Any thread may call it."""

    def __init__(self, metrics: Metrics) -> None:
        self._lane = Lane("upload", metrics, threads=PROCESSES, bound=_WAITING, seconds=2 * _SECONDS)
        self._decoders: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for _ in range(PROCESSES):
            self._decoders.put(_Decoder())
        self._images: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    async def take(self, file: BinaryIO, request: Request | None = None) -> str:
        """Decode and keep an image; the SHA-256 of its bytes is its name from now on.

        Raises `QueryError` for anything but an image, and what `Lane.run` raises.
        """

        def work(cancellation: Cancellation) -> str:
            cancellation.check()
            # Read only now, so that what waits in the queue stays in its file on disk.
            data = file.read()
            name = hashlib.sha256(data).hexdigest()
            with self._lock:
                if name in self._images:
                    self._images.move_to_end(name)
                    return name
            decoder = self._decoders.get()
            try:
                decoded = decoder.decode(data)
            finally:
                self._decoders.put(decoder)
            self._keep(name, decoded)
            return name

        return await self._lane.run(work, request)

    def image(self, name: str) -> Image.Image:
        """The image of a hash, RGB. Raises `ImageNotFoundError`."""
        with self._lock:
            image = self._images.get(name)
            if image is None:
                raise ImageNotFoundError("that picture is no longer kept here; send it again")
            self._images.move_to_end(name)
            return image

    def preview(self, name: str) -> bytes:
        """A small JPEG of it. Raises `ImageNotFoundError`."""
        small = self.image(name).copy()
        small.thumbnail((128, 128))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
        return out.getvalue()

    def close(self) -> None:
        """End the processes."""
        self._lane.close()
        for _ in range(PROCESSES):
            self._decoders.get().close()

    def _keep(self, name: str, image: Image.Image) -> None:
        with self._lock:
            self._images[name] = image
            while sum(_bytes(stored) for stored in self._images.values()) > _KEPT_BYTES:
                self._images.popitem(last=False)


def _bytes(image: Image.Image) -> int:
    # Pillow keeps four bytes for each pixel of RGB.
    return 4 * image.width * image.height


class _Decoder:
    """One decoding process, started when it is first needed."""

    def __init__(self) -> None:
        self._child = Child("server.decoding", one_thread=True)

    def decode(self, data: bytes) -> Image.Image:
        """RGB, its shorter side at `decoding.SIDE` or more where the image has that many. Raises `QueryError`."""
        process = self._child.started()
        alarm = threading.Timer(_SECONDS, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            rgb = self._asked(process, data)
        except QueryError:
            raise
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise QueryError("the image cannot be read: it takes too much time or memory to decode") from error
        finally:
            alarm.cancel()
        return rgb

    def _asked(self, process: subprocess.Popen[bytes], data: bytes) -> Image.Image:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started with pipes")
        process.stdin.write(len(data).to_bytes(8, "big") + data)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            raise QueryError(f"the image cannot be read: {answer['error']}")
        size = (int(answer["width"]), int(answer["height"]))
        return Image.frombytes("RGB", size, process.stdout.read(3 * size[0] * size[1]))

    def close(self) -> None:
        """End the process."""
        self._child.close()
