"""`mmsearch summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.describe import load_captioner
from cli.options import DecoderOption, DeviceOption, PrecisionOption
from cli.terminal import clock, interruptible, note, print_json, progress_bar, quiet_native_stderr, shown
from retrieval.errors import MediaError, MmsearchError, UsageError

if TYPE_CHECKING:
    from retrieval.crossmodal.summary import Segment
    from retrieval.crossmodal.viewing import ViewedVideo


def summarize_command(
    video: Annotated[str, typer.Argument(help="The video.", show_default=False)],
    length: Annotated[int, typer.Option(min=1, help="Most moments of the summary.")] = 8,
    html: Annotated[Optional[Path], typer.Option(help="Write a storyboard page to this file.")] = None,
    fps: Annotated[float, typer.Option(min=0.01, max=60, help="Frames a second that are looked at.")] = 1.0,
    model: DecoderOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say in words what a video shows: its most representative moments, in order, and a paragraph that joins them."""
    from media import storage
    from media.motion import holds_film
    from media.reader import moves
    from retrieval.crossmodal.decoder import CaptionDecoder
    from retrieval.crossmodal.summary import Segment, choose, paragraph
    from retrieval.crossmodal.viewing import view_video

    if storage.is_file(video) and not moves(video) and not holds_film(video):
        raise UsageError(f"{shown(video)} is no video; for a picture there is: mmsearch describe FILE")
    with interruptible():
        encoder = load_captioner(model, device, precision)
        decoder = CaptionDecoder(encoder.loaded)
        with quiet_native_stderr() as stream, progress_bar(stream) as bar:
            task = bar.add_task("watching", total=None, rate="", file=shown(video)[-48:])
            try:
                viewed = view_video(
                    video, encoder, fps, lambda time: bar.update(task, file=f"{shown(video)[-32:]} {clock(time)}")
                )
            except MediaError as error:
                raise MmsearchError(f"{shown(video)}: {error.reason}") from error
            bar.update(task, description="describing")
            picked = choose(viewed.embeddings, viewed.seconds, length)
            captions = decoder.describe([viewed.image(number) for number in picked])
        segments = [
            Segment(
                start=viewed.moments[number].start,
                end=viewed.moments[number].end,
                caption=caption.text,
                transcript=viewed.transcript(number),
            )
            for number, caption in zip(picked, captions, strict=True)
        ]
        text = paragraph(segments)
        if viewed.stopped is not None:
            note(f"{shown(video)}: read up to {clock(viewed.duration)}: {viewed.stopped}")
        if html is not None:
            _write(html, video, viewed, picked, segments, text)
    if as_json:
        print_json(
            {
                "path": video,
                "duration": round(viewed.duration, 3),
                "summary": text,
                "segments": [vars(segment) for segment in segments],
            }
        )
        return
    print(text)
    for segment in segments:
        print(f"{clock(segment.start)}–{clock(segment.end)}  {segment.caption}")
        if segment.transcript:
            print(f"    “{segment.transcript}”")


def _write(html: Path, video: str, viewed: ViewedVideo, picked: list[int], segments: list[Segment], text: str) -> None:
    from cli.storyboard import storyboard

    try:
        html.write_text(storyboard(video, viewed, picked, segments, text), "utf-8", errors="replace")
    except OSError as error:
        raise MmsearchError(f"cannot write {html}: {error.strerror}") from error
    note(f"wrote {shown(str(html))}")
