"""`mmsearch describe`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.options import DecoderOption, DeviceOption, PrecisionOption, choices
from cli.terminal import busy, clock, hint, interruptible, print_json, progress_bar, quiet_native_stderr, shown
from retrieval.errors import MediaError, MmsearchError
from retrieval.models.catalog import READER

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig
    from retrieval.models.encoder import Encoder
    from retrieval.results import Caption

    # Start and end in seconds of a moment, None for a picture, and the caption.
    Described: TypeAlias = list[tuple[float | None, float | None, Caption]]

BATCH = 16
METHODS = ("beam", "greedy", "nucleus")


def describe_command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Images and videos to describe.", show_default=False)
    ],
    model: DecoderOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    method: Annotated[
        str,
        typer.Option(
            metavar="beam|greedy|nucleus",
            help="How words are chosen; nucleus samples.",
            autocompletion=choices("beam", "greedy", "nucleus"),
        ),
    ] = "beam",
    beams: Annotated[int, typer.Option(help="Hypotheses that beam search keeps.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Chance of nucleus sampling.")] = 0,
    min_length: Annotated[int, typer.Option(help="Least tokens of a caption.")] = 3,
    max_length: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 40,
    prefix: Annotated[str, typer.Option(help="Words that every caption begins with.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture or moment.")] = False,
) -> None:
    """Say in words what pictures show, and what each moment of a video shows."""
    from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig

    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is not one of {', '.join(METHODS)}", param_hint="--method")
    config = DecodeConfig(
        method=method,  # type: ignore[arg-type]  # It is one of them
        beams=beams,
        seed=seed,
        min_length=min_length,
        max_length=max_length,
        prefix=prefix,
    )
    failed = 0
    with interruptible():
        encoder = load_captioner(model, device, precision)
        decoder = CaptionDecoder(encoder.loaded)
        with quiet_native_stderr() as stream, progress_bar(stream) as bar:
            task = bar.add_task("describing", total=len(files), rate="", file="")
            for path, captions in _captions(files, encoder, decoder, config):
                bar.update(task, advance=1, file=shown(path)[-48:])
                if isinstance(captions, MediaError):
                    failed += 1
                    reason = f"{shown(path)}: {captions.reason}"
                    bar.console.print(reason, markup=False, highlight=False, soft_wrap=True)
                    continue
                for start, end, caption in captions:
                    if as_json:
                        print_json(
                            {"path": path, "start": start, "end": end, "caption": caption.text,
                             "log_probability": round(caption.log_probability, 4)}
                        )  # fmt: skip
                    else:
                        when = f" {clock(start)}–{clock(end)}" if start is not None and end is not None else ""
                        print(f"{shown(path)}{when}: {caption.text}")
    if failed:
        raise MmsearchError(f"{failed} of {len(files)} could not be described")


def load_captioner(name: str, device: str, precision: str) -> Encoder:
    """The model that a command shall describe with, and a hint where `auto` took another than the best.

    Raises `ModelError`.
    """
    from retrieval.models.encoder import Encoder
    from retrieval.models.weights import resolve

    files = resolve(name, READER)
    if files.notice:
        hint(files.notice)
    with busy("loading the model"):
        return Encoder.load(files, device, precision)


def _captions(
    files: list[str], encoder: Encoder, decoder: CaptionDecoder, config: DecodeConfig
) -> Iterator[tuple[str, Described | MediaError]]:
    """Each file with its captions or with what is wrong with it, in order: one of a picture, and of a video one a moment.

    Images are read and described some at a time.
    """
    from media.containers import read_bytes
    from media.image import decode_image
    from media.reader import moves
    from retrieval.crossmodal.viewing import view_video

    def describe(part: list[str]) -> Iterator[tuple[str, Described | MediaError]]:
        rgb_images: list[Image] = []
        errors: dict[str, MediaError] = {}
        for file in part:
            try:
                rgb_images.append(decode_image(read_bytes(file), encoder.spec.image_size, name=str(file)).rgb)
            except MediaError as error:
                errors[file] = error
        captions = iter(decoder.describe(rgb_images, config))
        for file in part:
            yield file, errors[file] if file in errors else [(None, None, next(captions))]

    waiting: list[str] = []
    for file in files:
        if not moves(file):
            waiting.append(file)
            if len(waiting) == BATCH:
                yield from describe(waiting)
                waiting = []
            continue
        yield from describe(waiting)
        waiting = []
        try:
            viewed = view_video(file, encoder)
        except MediaError as error:
            yield file, error
            continue
        described: Described = []
        for start in range(0, len(viewed.moments), BATCH):
            moments = viewed.moments[start : start + BATCH]
            captions = decoder.describe([viewed.image(start + n) for n in range(len(moments))], config)
            described += [
                (moment.start, moment.end, caption) for moment, caption in zip(moments, captions, strict=True)
            ]
        yield file, described
    yield from describe(waiting)
