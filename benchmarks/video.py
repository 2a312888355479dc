"""What videos cost: sampling against plain decoding, and the memory of a long video. `python -m benchmarks.video --help`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import av

from benchmarks.samples import copy_samples
from benchmarks.speed import ROOT, command, report, spread
from benchmarks.synthetic_videos import Shot, VideoFormat, write_video
from media.video import Ending, Frame, SampleConfig, VideoDecoder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    make = commands.add_parser("make", help="write a 1080p H.264 film of the sample photos, with grain")
    make.add_argument("file", type=Path)
    make.add_argument("--seconds", type=int, default=120)
    make.add_argument("--bitrate", default="6M")
    loop = commands.add_parser("loop", help="write a film over and over into one file, without encoding")
    loop.add_argument("file", type=Path)
    loop.add_argument("target", type=Path)
    loop.add_argument("--hours", type=float, default=2.0)
    sample = commands.add_parser("sample", help="sampling at a frame a second against decoding every frame")
    sample.add_argument("file", type=Path)
    sample.add_argument("--rounds", type=int, default=5)
    memory = commands.add_parser("memory", help="peak memory of indexing a folder, all processes together")
    memory.add_argument("folder", type=Path)
    memory.add_argument("--model", default="mini")
    given = parser.parse_args(arguments)
    if given.what == "make":
        write_camera_video(given.file, given.seconds, given.bitrate)
    elif given.what == "loop":
        write_loop(given.file, given.target, given.hours)
    elif given.what == "sample":
        report(measure_sampling(given.file, given.rounds))
    else:
        report(measure_memory(given.folder, given.model))
    return 0


def write_camera_video(file: Path, seconds: int, bitrate: str) -> None:
    """A video as a camera makes it: 1080p at 30 frames a second, at a bit rate that the grain uses up."""
    import tempfile

    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        copy_samples(Path(scratch))
        images = [Image.open(path).convert("RGB") for path in sorted(Path(scratch).glob("*")) if path.suffix != ".csv"]
    shots = [Shot(image=images[n % len(images)], seconds=5, drift=0.3) for n in range(seconds // 5)]
    options = {"preset": "veryfast", "b": bitrate, "maxrate": bitrate, "bufsize": bitrate}
    write_video(file, shots, VideoFormat(width=1920, height=1080, rate=30, options=options, grain=6))


def write_loop(file: Path, target: Path, hours: float) -> None:
    """The packets of a video again and again, with times that go on."""
    with av.open(os.fspath(target), "w") as out:
        stream, offset, seconds = None, 0, 0.0
        while seconds < 3600 * hours:
            with av.open(os.fspath(file)) as source:
                video = source.streams.video[0]
                if video.time_base is None or not video.duration:
                    raise ValueError("the film does not say how long it is")
                if stream is None:
                    stream = out.add_stream_from_template(video)
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = (packet.pts or 0) + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                offset += video.duration
                seconds = float(offset * video.time_base)


def measure_sampling(file: Path, rounds: int) -> dict[str, object]:
    """Times real time of sampling, its process and its pipe included, and of PyAV decoding one frame after the other."""
    ours: list[float] = []
    plain: list[float] = []
    frames = 0
    for _ in range(rounds):
        began = time.perf_counter()
        with VideoDecoder() as decoder:
            events = list(decoder.sample(os.fspath(file), SampleConfig()))
        ending = next(event for event in events if isinstance(event, Ending))
        frames = sum(isinstance(event, Frame) for event in events)
        ours.append(ending.duration / (time.perf_counter() - began))
        began = time.perf_counter()
        with av.open(os.fspath(file)) as opened:
            decoded = sum(1 for _ in opened.decode(video=0))
        plain.append(ending.duration / (time.perf_counter() - began))
    return {
        "file": file.name,
        "seconds": round(ending.duration, 1),
        "frames_kept": frames,
        "frames_decoded_plainly": decoded,
        "sampling_times_real_time": spread(ours),
        "plain_times_real_time": spread(plain),
        "ratio": spread([our / other for our, other in zip(ours, plain, strict=True)]),
    }


def measure_memory(folder: Path, model: str) -> dict[str, object]:
    """Peak resident memory of `mmsearch index` and of its decoder, each at its own worst, and together."""
    index = folder.with_name(folder.name + "-index")
    shutil.rmtree(index, ignore_errors=True)
    began = time.perf_counter()
    process = subprocess.Popen(
        command("index", os.fspath(folder), "--model", model, "--index", os.fspath(index), "--json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    peaks = {"index": 0, "decoder": 0, "together": 0}
    while process.poll() is None:
        parent, child = _resident(process.pid), sum(_resident(pid) for pid in _children(process.pid))
        peaks["index"], peaks["decoder"] = max(peaks["index"], parent), max(peaks["decoder"], child)
        peaks["together"] = max(peaks["together"], parent + child)
        time.sleep(0.1)
    if process.returncode:
        raise ValueError(f"mmsearch index ended with {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        **{f"peak_{name}_gb": round(value / 1e9, 3) for name, value in peaks.items()},
    }


def _children(pid: int) -> list[int]:
    """Processes that any thread of this one started."""
    pids: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids += [int(pid) for pid in file.read_text().split()]
        except OSError:
            continue
    return pids


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
