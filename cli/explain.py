"""`mmsearch explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import DecoderOption, DeviceOption
from cli.outputs import output_place
from cli.terminal import busy, hint, print_json, quiet_native_stderr, shown
from retrieval.errors import MediaError, MmsearchError
from retrieval.models.catalog import READER


def explain_command(
    image: Annotated[str, typer.Argument(help="A picture.")],
    text: Annotated[str, typer.Argument(help="Words that may match it.")],
    output: Annotated[
        Optional[Path],
        typer.Option(
            help="The PNG to write; else NAME-explained.png here, or in your documents where this folder is indexed.",
            show_default=False,
        ),
    ] = None,
    model: DecoderOption = "auto",
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print words and their likelihood as JSON.")] = False,
) -> None:
    """Show which parts of a picture each word rests on, as a PNG with one panel a word."""
    from media.containers import read_bytes
    from media.image import decode_image
    from media.marks import png_mark
    from retrieval.crossmodal.explain import draw, explain
    from retrieval.models.loading import load_model
    from retrieval.models.weights import resolve

    file = output or output_place(f"{Path(image).stem}-explained.png")
    files = resolve(model, READER)
    if files.notice:
        hint(files.notice)
    with quiet_native_stderr():
        try:
            rgb = decode_image(read_bytes(image), 512, name=image).rgb
        except MediaError as error:
            raise MmsearchError(f"{shown(image)}: {error.reason}") from error
    # Gradients need float32, and one picture costs little.
    with busy("reading the picture"):
        loaded = load_model(files, device, "fp32")
        done = explain(loaded, rgb, text)
    try:
        draw(rgb, done, loaded.spec.resize_mode).save(file, "PNG", pnginfo=png_mark())
    except OSError as error:
        raise MmsearchError(f"cannot write {shown(str(file))}: {error.strerror or error}") from error
    if as_json:
        words = [
            {"word": word, "log_probability": round(float(likely), 4)}
            for word, likely in zip(done.words, done.log_probabilities, strict=True)
        ]
        print_json({"path": str(file), "words": words})
    else:
        print(f"wrote {shown(str(file))}")
