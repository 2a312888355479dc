"""`mmsearch describe`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.terminal import busy, interruptible, note, print_json, progress_bar, quiet_native_stderr, shown
from retrieval.catalog import CAPTIONER
from retrieval.errors import MediaError, MmsearchError

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.decoder import Caption, CaptionDecoder, DecodeConfig

BATCH = 16


def describe_command(
    files: Annotated[list[str], typer.Argument(help="Pictures to describe.", show_default=False)],
    model: Annotated[str, typer.Option(help="A model with a caption decoder: mini, a CoCa's NAME, or auto.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    method: Annotated[str, typer.Option(help="beam, greedy or nucleus (sampling).")] = "beam",
    beams: Annotated[int, typer.Option(help="Hypotheses that beam search keeps.")] = 4,
    seed: Annotated[int, typer.Option(help="Chance of nucleus sampling.")] = 0,
    min_length: Annotated[int, typer.Option(help="Least tokens of a caption.")] = 3,
    max_length: Annotated[int, typer.Option(help="Most tokens of a caption.")] = 40,
    prefix: Annotated[str, typer.Option(help="Words that every caption begins with.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
) -> None:
    """Say in words what pictures show."""
    from indexer.media.image import register_decoders
    from retrieval.decoder import CaptionDecoder, DecodeConfig
    from retrieval.models import load_model
    from retrieval.weights import resolve

    config = DecodeConfig(
        method=method,  # type: ignore[arg-type]  # CaptionDecoder checks it, and names the choices
        beams=beams,
        seed=seed,
        min_length=min_length,
        max_length=max_length,
        prefix=prefix,
    )
    failed = 0
    with interruptible():
        found = resolve(model, CAPTIONER)
        if found.notice:
            note(found.notice)
        with busy("loading the model"):
            loaded = load_model(found, device, precision)
        decoder = CaptionDecoder(loaded)
        register_decoders()
        with quiet_native_stderr() as stream, progress_bar(stream) as bar:
            task = bar.add_task("describing", total=len(files), rate="", file="")
            for path, caption in _captions(files, decoder, config, loaded.spec.image_size):
                bar.update(task, advance=1, file=shown(path)[-48:])
                if isinstance(caption, MediaError):
                    failed += 1
                    bar.console.print(f"{shown(path)}: {caption.reason}", markup=False, highlight=False, soft_wrap=True)
                elif as_json:
                    print_json(
                        {"path": path, "start": None, "end": None, "caption": caption.text,
                         "log_probability": round(caption.log_probability, 4)}
                    )  # fmt: skip
                else:
                    print(f"{shown(path)}: {caption.text}")
    if failed:
        raise MmsearchError(f"{failed} of {len(files)} could not be described")


def _captions(
    files: list[str], decoder: CaptionDecoder, config: DecodeConfig, side: int
) -> Iterator[tuple[str, Caption | MediaError]]:
    """Each file with its caption or with what is wrong with it, in order, some pictures at a time."""
    from indexer.media.image import decode_image
    from indexer.sources import read_bytes

    for start in range(0, len(files), BATCH):
        part = files[start : start + BATCH]
        pictures: list[Image] = []
        errors: dict[str, MediaError] = {}
        for file in part:
            try:
                pictures.append(decode_image(read_bytes(file), side).rgb)
            except MediaError as error:
                errors[file] = error
        captions = iter(decoder.describe(pictures, config))
        for file in part:
            yield file, errors[file] if file in errors else next(captions)
