"""Broken pictures and films by the thousand: is any lost without a reason, does any end the run or take too much? `python -m
benchmarks.fuzz --images 20000 --videos 2000`.

Each file is a sound one of some format with a few mutations that a seed fixes: bytes changed, cut off, doubled, moved, set
to extremes, or its end lost. It goes where indexing sends it, and comes back as pixels, as pixels and a line that says what
is missing, or as a reason. Prints JSON: the counts by format, the slowest file, and the memory at the first and the last tenth.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.synthetic_videos import Shot, VideoFormat, write_video
from media.errors import MediaError
from media.isolated import ImageDecoder
from media.video import Ending, Frame, SampleConfig, VideoDecoder

_SIDE = 64
# A reason is one line for a person, not a page of a parser.
_LONGEST_REASON = 400
_FILMS = {
    ".mp4": VideoFormat(width=96, height=72, rate=10, options={"preset": "ultrafast", "g": "10"}),
    ".mkv": VideoFormat(width=96, height=72, rate=10, codec="libvpx", options={"deadline": "realtime"}),
    ".avi": VideoFormat(width=96, height=72, rate=10, codec="mpeg4"),
    ".mpg": VideoFormat(width=96, height=72, rate=25, codec="mpeg2video"),
}


@dataclass
class Fuzzed:
    """What became of the files: `outcomes` counts by format and outcome, `lost` names those that came back with neither
    pixels nor a proper reason, `slowest` is in seconds, `memory` in megabytes at each tenth, child processes counted in."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_name: str = ""
    memory: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, form: str, outcome: str, seconds: float, name: str) -> None:
        self.outcomes.setdefault(form, Counter())[outcome] += 1
        if seconds > self.slowest:
            self.slowest, self.slowest_name = seconds, name


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to six mutations."""
    mutant = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(mutant) or 1)
        if chance.random() < 0.4:
            # Headers are where sizes and offsets stand.
            at = chance.randrange(min(len(mutant), 256) or 1)
        length = chance.choice((1, 1, 2, 4, 16, 64))
        kind = chance.randrange(6)
        if kind == 0:
            mutant[at : at + length] = chance.randbytes(length)
        elif kind == 1:
            mutant[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            del mutant[at : at + length]
        elif kind == 3:
            mutant[at:at] = mutant[at : at + length]
        elif kind == 4:
            other = chance.randrange(len(mutant) or 1)
            mutant[at : at + length] = mutant[other : other + length]
        elif len(mutant) > 16:
            del mutant[chance.randrange(8, len(mutant)) :]
    return bytes(mutant)


def sound_images(chance: random.Random) -> dict[str, list[bytes]]:
    """Whole pictures by format, each in a few forms."""
    from pillow_heif import from_pillow

    small = np.asarray([[[chance.randrange(256) for _ in range(3)] for _ in range(8)] for _ in range(6)], np.uint8)
    image = Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC)
    forms: dict[str, list[tuple[str, dict[str, object]]]] = {
        "JPEG": [("JPEG", {}), ("JPEG", {"progressive": True}), ("MPO", {"save_all": True, "append_images": [image]})],
        "PNG": [("PNG", {})],
        "WEBP": [("WEBP", {}), ("WEBP", {"lossless": True})],
        "GIF": [("GIF", {})],
        "TIFF": [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"})],
        "BMP": [("BMP", {})],
        "JPEG2000": [("JPEG2000", {})],
        "AVIF": [("AVIF", {"speed": 10})],
        "PPM": [("PPM", {})],
    }
    if importlib.util.find_spec("pillow_jxl") is not None:
        # Importing it teaches Pillow the format.
        importlib.import_module("pillow_jxl")
        forms["JXL"] = [("JXL", {"quality": 90}), ("JXL", {"lossless": True})]
    whole: dict[str, list[bytes]] = {}
    for form, ways in forms.items():
        for pillow, options in ways:
            out = io.BytesIO()
            image.save(out, pillow, **options)
            whole.setdefault(form, []).append(out.getvalue())
    heif = io.BytesIO()
    from_pillow(image).save(heif, quality=80)
    whole["HEIF"] = [heif.getvalue()]
    whole["SVG"] = [
        b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="5" height="5" fill="red"/></svg>'
    ]
    return whole


def sound_videos(folder: Path, chance: random.Random) -> dict[str, list[bytes]]:
    """Whole films by suffix."""
    whole: dict[str, list[bytes]] = {}
    for suffix, how in _FILMS.items():
        noise = [np.frombuffer(chance.randbytes(6 * 8 * 3), np.uint8).reshape(6, 8, 3) for _ in range(2)]
        shots = [Shot(image=Image.fromarray(pixels).resize((96, 72)), seconds=1.0) for pixels in noise]
        file = folder / f"sound{suffix}"
        write_video(file, shots, how)
        whole[suffix] = [file.read_bytes()]
    whole[".jpg"] = [_motion_photo(Image.fromarray(noise[0]).resize((96, 72)), whole[".mp4"][0])]
    return whole


def _motion_photo(image: Image.Image, film: bytes) -> bytes:
    """A photo with a film inside of it, as phones wrote it first."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MicroVideo="1" '
        f'GCamera:MicroVideoOffset="{len(film)}"/></rdf:RDF></x:xmpmeta>'
    )
    out = io.BytesIO()
    image.save(out, "JPEG", xmp=packet.encode())
    return out.getvalue() + film


def fuzz_images(count: int, seed: int, processes: int = 2) -> Fuzzed:
    """Decode `count` mutated pictures."""
    chance, fuzzed = random.Random(seed), Fuzzed()
    whole = sound_images(chance)
    with ImageDecoder(processes, max_pixels=30_000_000) as decoder:

        def decode(form: str, data: bytes) -> str:
            decoded = decoder.decode(data, _SIDE, f"x.{form.lower()}")
            if min(decoded.rgb.size) < 1 or decoded.rgb.mode != "RGB":
                raise AssertionError(f"no picture: {decoded.rgb}")
            return "decoded" if decoded.missing is None else "in part"

        _run(fuzzed, count, whole, chance, decode)
    return fuzzed


def fuzz_videos(count: int, seed: int) -> Fuzzed:
    """Sample `count` mutated films."""
    chance, fuzzed = random.Random(seed), Fuzzed()
    with tempfile.TemporaryDirectory() as scratch, VideoDecoder(patience=20) as decoder:
        whole = sound_videos(Path(scratch), chance)

        def decode(suffix: str, data: bytes) -> str:
            file = Path(scratch) / f"mutant{suffix}"
            file.write_bytes(data)
            events = list(decoder.sample(str(file), SampleConfig(min_side=_SIDE, max_frames=50)))
            if not any(isinstance(event, Frame) for event in events):
                raise AssertionError("no frame and no reason")
            ending = next(event for event in events if isinstance(event, Ending))
            return "decoded" if ending.stopped is None else "in part"

        _run(fuzzed, count, whole, chance, decode)
    return fuzzed


def _run(
    fuzzed: Fuzzed,
    count: int,
    whole: dict[str, list[bytes]],
    chance: random.Random,
    decode: Callable[[str, bytes], str],
) -> None:
    began = time.monotonic()
    for number, form in _turns(count, sorted(whole)):
        data = mutated(chance.choice(whole[form]), chance)
        started = time.monotonic()
        try:
            outcome = decode(form, data)
        except MediaError as error:
            outcome = "crashed" if "crashed" in error.reason else "hung" if "took more" in error.reason else "refused"
            if not error.reason or "\n" in error.reason or len(error.reason) > _LONGEST_REASON:
                fuzzed.lost.append(f"{form} {number}: {error.reason!r}")
        except Exception as error:  # The very thing that is looked for
            outcome = "lost"
            fuzzed.lost.append(f"{form} {number}: {type(error).__name__}: {error}")
        fuzzed.count(form, outcome, time.monotonic() - started, f"{form} {number}")
        if (number + 1) % max(1, count // 10) == 0:
            fuzzed.memory.append(round(_memory_mb(), 1))
    fuzzed.seconds = time.monotonic() - began


def _turns(count: int, forms: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, forms[number % len(forms)]) for number in range(count))


def _memory_mb() -> float:
    """Resident memory of this process and its children, in megabytes; 0 where the system has no `/proc`."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(entry.name) == os.getpid() or int(fields[1]) == os.getpid():
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total / 1e6


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    done = {"images": fuzz_images(asked.images, asked.seed), "videos": fuzz_videos(asked.videos, asked.seed)}
    print(
        json.dumps(
            {
                kind: {
                    "seed": asked.seed,
                    "files": sum(sum(counts.values()) for counts in fuzzed.outcomes.values()),
                    "outcomes": {form: dict(counts) for form, counts in fuzzed.outcomes.items()},
                    "lost": fuzzed.lost,
                    "slowest_seconds": round(fuzzed.slowest, 2),
                    "slowest": fuzzed.slowest_name,
                    "memory_mb": fuzzed.memory,
                    "seconds": round(fuzzed.seconds, 1),
                }
                for kind, fuzzed in done.items()
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
