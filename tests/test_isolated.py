"""Decoders in processes apart: a crash costs one file, and the next is decoded."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from media.errors import MediaError
from media.isolated import ImageDecoder
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import picture
from tests.libraries import rows_of, run
from tests.test_images import encoded, far


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "AVIF", "GIF", "JPEG", "PNG"])
def test_what_comes_from_a_process_apart_is_what_decoding_here_gives(form: str) -> None:
    original = picture(1, 200, 150)
    with ImageDecoder(1) as decoder:
        decoded = decoder.decode(encoded(original, form), 150)
        again = decoder.decode(encoded(original, form), 150)
    assert (decoded.width, decoded.height) == (200, 150)
    assert far(decoded.rgb, original) < 12
    assert again.dhash == decoded.dhash


def test_what_a_decoder_says_of_a_file_comes_through_and_the_next_is_decoded() -> None:
    with ImageDecoder(1) as decoder:
        with pytest.raises(MediaError) as caught:
            decoder.decode(b"RIFF\x20\0\0\0WEBPVP8 " + bytes(40), 32)
        assert caught.value.stage == "decode"
        assert decoder.decode(encoded(picture(1), "WEBP"), 32).width == 64
        with pytest.raises(MediaError, match="--max-pixels"), ImageDecoder(1, max_pixels=100) as small:
            small.decode(encoded(picture(1), "WEBP"), 32)


def child_of(decoder: ImageDecoder) -> subprocess.Popen[bytes]:
    process = decoder._all[0]._child._process
    assert process is not None
    return process


def test_a_decoder_that_is_killed_or_hangs_costs_that_file_alone() -> None:
    data = encoded(picture(1), "WEBP")
    with ImageDecoder(1) as decoder:
        # Starting may take longer than that where much else runs.
        decoder.decode(data, 32)
        decoder._all[0]._patience = 1.0
        os.kill(child_of(decoder).pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(MediaError, match="took more than"):
            decoder.decode(data, 32)
        assert time.monotonic() - began < 20
    with ImageDecoder(1) as decoder:
        decoder.decode(data, 32)
        os.kill(child_of(decoder).pid, signal.SIGSEGV)
        child_of(decoder).wait()
        assert decoder.decode(data, 32).width == 64


def test_a_segmentation_fault_in_a_codec_costs_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that crashes is put in the place of Pillow's for WebP, in the processes apart alone."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'media.decoder' in sys.orig_argv:\n"
        "    import PIL.WebPImagePlugin as p\n"
        "    p.WebPImageFile.load = lambda self: os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fake), os.environ.get("PYTHONPATH", "")]))
    media = tmp_path / "media"
    media.mkdir()
    for name, form in (("a.webp", "WEBP"), ("b.tif", "TIFF"), ("c.jpg", "JPEG"), ("d.webp", "WEBP")):
        (media / name).write_bytes(encoded(picture(len(name) + ord(name[0])), form))
    report = run(tmp_path / "index", media)
    assert (report.indexed, report.failed) == (2, 2)
    assert sorted(Path(row[0]).name for row in rows_of(tmp_path / "index")) == ["b.tif", "c.jpg"]
    failures = read_failures(tmp_path / "index", read_manifest(tmp_path / "index"))
    assert {failure.reason for failure in failures} == {"the decoder crashed on this file"}
