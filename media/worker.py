"""`python -m media.worker`: decodes videos in a process of its own, so that one that crashes takes nothing with it.

Requests come in as a line of JSON on standard input; answers go out on standard output as a line of JSON each, a frame's
followed by its RGB bytes. The reader's pace is ours: a pipe that is full makes decoding wait.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import BinaryIO

from media.errors import MediaError, OwnOutputError
from media.frames import sample
from media.metadata import video_facts
from media.subtitles import Cue
from media.video import Beat, Ending, Frame, SampleConfig


def main() -> int:
    """Serve requests until the input ends."""
    # Libraries may print: our answers get a descriptor that they do not know of.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        _serve(json.loads(line), out)
    return 0


def _serve(request: dict[str, str | int | float | bool], out: BinaryIO) -> None:
    path = os.fsdecode(bytes.fromhex(str(request["path"])))
    if "fps" not in request:
        _answer(out, {"facts": asdict(video_facts(path))})
        out.flush()
        return
    config = SampleConfig(
        fps=float(request["fps"]),
        max_frames=int(request["max_frames"]),
        min_side=int(request["min_side"]),
        skip_own=bool(request["skip_own"]),
    )
    try:
        for event in sample(path, config):
            if isinstance(event, Frame):
                width, height = event.rgb.size
                _answer(out, {"frame": [event.time, event.start, event.end, event.shot, width, height]})
                out.write(event.rgb.tobytes())
            elif isinstance(event, Cue):
                _answer(out, {"cue": [event.start, event.end, event.text, event.kind]})
            elif isinstance(event, Beat):
                _answer(out, {"beat": event.time})
            elif isinstance(event, Ending):
                ending = [event.width, event.height, event.duration, event.stopped]
                _answer(out, {"ending": ending, "facts": asdict(event.facts)})
    except OwnOutputError:
        _answer(out, {"own": True})
    except MediaError as error:
        _answer(out, {"error": [error.stage, error.reason]})
    except MemoryError:
        _answer(out, {"error": ["decode", "the video does not fit in memory"]})
    out.flush()


def _answer(out: BinaryIO, value: dict[str, object]) -> None:
    out.write(json.dumps(value).encode() + b"\n")
    if "beat" in value:
        out.flush()


if __name__ == "__main__":
    raise SystemExit(main())
