"""Pictures to search by that clients send: decoded small in processes apart, kept for a while under the hash of their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from starlette.requests import Request

from retrieval.cancellation import Cancellation
from retrieval.errors import MmsearchError, QueryError
from server.lanes import Lane
from server.metrics import Metrics

PROCESSES = 2
_WAITING = 12
_KEPT_BYTES = 64 * 1024**2
_SECONDS = 30.0
_ROOT = Path(__file__).parents[1]


class PictureNotFoundError(MmsearchError):
    """No picture of this hash is kept (any more)."""


class Uploads:
    """Takes pictures and gives them back by their hash. Any thread may call it."""

    def __init__(self, metrics: Metrics) -> None:
        self._lane = Lane("upload", metrics, threads=PROCESSES, bound=_WAITING, seconds=2 * _SECONDS)
        self._decoders: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for _ in range(PROCESSES):
            self._decoders.put(_Decoder())
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    async def take(self, file: BinaryIO, request: Request | None = None) -> str:
        """Decode and keep a picture; the SHA-256 of its bytes is its name from now on.

        Raises `QueryError` for what is no picture, and what `Lane.run` raises.
        """

        def work(cancellation: Cancellation) -> str:
            cancellation.check()
            # Read only now, so that what waits in the queue stays in its file on disk.
            data = file.read()
            name = hashlib.sha256(data).hexdigest()
            with self._lock:
                if name in self._kept:
                    self._kept.move_to_end(name)
                    return name
            decoder = self._decoders.get()
            try:
                picture = decoder.decode(data)
            finally:
                self._decoders.put(decoder)
            self._keep(name, picture)
            return name

        return await self._lane.run(work, request)

    def image(self, name: str) -> Image.Image:
        """The picture of a hash, RGB. Raises `PictureNotFoundError`."""
        with self._lock:
            picture = self._kept.get(name)
            if picture is None:
                raise PictureNotFoundError("that picture is no longer kept here; send it again")
            self._kept.move_to_end(name)
            return picture

    def preview(self, name: str) -> bytes:
        """A small JPEG of it. Raises `PictureNotFoundError`."""
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

    def _keep(self, name: str, picture: Image.Image) -> None:
        with self._lock:
            self._kept[name] = picture
            while sum(_bytes(one) for one in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)


def _bytes(picture: Image.Image) -> int:
    # Pillow keeps four bytes for each pixel of RGB.
    return 4 * picture.width * picture.height


class _Decoder:
    """One decoding process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes) -> Image.Image:
        """RGB, its shorter side at `decoding.SIDE` or more where the picture has that many. Raises `QueryError`."""
        process = self._started()
        alarm = threading.Timer(_SECONDS, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            picture = self._asked(process, data)
        except QueryError:
            raise
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise QueryError("the image cannot be read: it takes too much time or memory to decode") from error
        finally:
            alarm.cancel()
        return picture

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

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = subprocess.Popen(
                # Never a module of the folder that the server happens to be started in.
                [sys.executable, "-P", "-m", "server.decoding"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the server, which then ends this one.
                start_new_session=True,
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
