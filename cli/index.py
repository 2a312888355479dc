"""`mmsearch index`."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import DeviceOption, PrecisionOption, choices, complete_index, complete_model
from cli.terminal import busy, hint, interruptible, near, note, print_json, progress_bar, quiet_native_stderr, shown
from retrieval.errors import IndexNotFoundError, MmsearchError

if TYPE_CHECKING:
    from indexer.build import IndexBuild
    from indexer.change import ModelChange
    from indexer.config import BuildReport
    from retrieval.models.encoder import Encoder

# Kinds of files that are not indexed, the most frequent, of which the report tells.
_KINDS_SHOWN = 8


def index_command(
    paths: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="PATH", help="Folders, files, .tar or .parquet; s3://BUCKET/PREFIX.", show_default=False
        ),
    ] = None,
    index: Annotated[
        Optional[str],
        typer.Option(
            metavar="DIR",
            help="Where the index is or shall be; by default .mmsearch in the first PATH.",
            autocompletion=complete_index,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The model: ARCH/TAG, ARCH@FILE, hf-hub:ORG/REPO, local-dir:DIR, mini or auto.",
            autocompletion=complete_model,
        ),
    ] = "auto",
    change_model: Annotated[
        bool,
        typer.Option(
            "--change-model",
            help="Let an index of another model change to --model, without asking: all is encoded anew.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one for each CPU.")] = 0,
    fps: Annotated[float, typer.Option(help="Frames a second that are taken of videos, where they move on.")] = 1.0,
    max_frames: Annotated[int, typer.Option(min=1, help="Most frames of one video.")] = 10_000,
    moment_fusion: Annotated[
        str,
        typer.Option(
            metavar="mean|attention",
            help="How a moment's frames become one embedding.",
            autocompletion=choices("mean", "attention"),
        ),
    ] = "mean",
    transcribe: Annotated[
        bool, typer.Option("--transcribe", help="Make texts of what is said in videos and sound files.")
    ] = False,
    asr_model: Annotated[
        str,
        typer.Option(metavar="NAME", help="The speech model: a folder in CTranslate2 format, or a name in the cache."),
    ] = "small",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try files that failed before again.")] = False,
    reread: Annotated[
        bool,
        typer.Option("--reread", help="Read dates, places and words of unchanged files again; none is encoded again."),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Let a folder that is empty now lose its files; else it may be a drive not mounted."
        ),
    ] = False,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Millions of pixels that a picture may have (a JPEG: eight times as many).")
    ] = 300,
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="GLOB",
            help="Leave out what matches this GLOB, as in a .gitignore; the index remembers it, and !GLOB takes it back. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    default_excludes: Annotated[
        Optional[bool],
        typer.Option(
            "--default-excludes/--no-default-excludes",
            help="Leave out folders that nobody means: @eaDir, #recycle, node_modules and their like. Remembered.",
            show_default="yes",
        ),
    ] = None,
    ocr: Annotated[
        Optional[str],
        typer.Option(
            metavar="auto|all|off",
            help="Read the text in pictures: in those that are likely to hold some, in all, or in none. Needs: pip install "
            "rapidocr.",
            envvar="MMSEARCH_OCR",
            show_envvar=False,
            show_default="auto where rapidocr is installed",
            autocompletion=choices("auto", "all", "off"),
        ),
    ] = None,
    cluster: Annotated[
        Optional[str],
        typer.Option(
            metavar="local|ray://HOST:PORT",
            help="Decode and encode on a cluster, with Ray (extra cluster): processes of this machine, or the nodes that "
            "HOST leads.",
            show_default=False,
            autocompletion=choices("local", "ray://"),
        ),
    ] = None,
    rebuild_vectors: Annotated[
        bool, typer.Option("--rebuild-vectors", help="Make the Faiss files anew from the shards; reads no media.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Index folders, photos, videos, texts, webdataset tars and Parquet tables; run it again to bring an index up to date."""
    if not paths:
        raise typer.BadParameter("name at least one folder or file")
    if not 0 < fps <= 60:
        raise typer.BadParameter(f"{fps:g} is not in 0..60", param_hint="--fps")
    if ocr not in (None, "auto", "all", "off"):
        raise typer.BadParameter(f"{ocr!r} is not auto, all or off", param_hint="--ocr")
    began = time.monotonic()
    with interruptible():
        from indexer.config import BuildConfig, cluster_config, ocr_config
        from indexer.roots import roots_of
        from indexer.run import build_of, index_folder, joins, open_encoder
        from retrieval.crossmodal.moments import MOMENT_FUSIONS

        fusion = next((choice for choice in MOMENT_FUSIONS if choice == moment_fusion), None)
        if fusion is None:
            raise typer.BadParameter(f"{moment_fusion!r} is not mean or attention", param_hint="--moment-fusion")
        nodes = cluster_config(cluster, device)
        roots = roots_of(paths)
        folder = index_folder(index, roots)
        first = not (folder / "manifest.json").is_file()
        joined = joins(folder, roots) if index is None else None
        if joined is not None:
            note(joined)
        if rebuild_vectors:
            _rebuild(folder)
            return
        change_model = change_model or _change_agreed(folder, model)
        with busy("loading the model"):
            opened = open_encoder(folder, model, device, precision, change_model=change_model)
        encoder = opened.encoder
        for line in opened.notices:
            hint(line)
        recogniser = None
        if transcribe:
            from media.sound import WhisperRecogniser

            with busy("loading the speech model"):
                recogniser = WhisperRecogniser(asr_model, device)
        config = BuildConfig(
            batch_size=batch_size,
            workers=workers,
            retry_failed=retry_failed,
            reread=reread,
            fps=fps,
            max_frames=max_frames,
            moment_fusion=fusion,
            recogniser=recogniser,
            prune=prune,
            max_pixels=max_pixels * 1_000_000,
            exclude=_globs(exclude or ()),
            default_excludes=default_excludes,
            # Pictures are read here and not on the nodes: where there are enough for a cluster, only if it is asked for.
            ocr=ocr_config("off" if ocr is None and nodes is not None else ocr),
            cluster=nodes,
        )
        build = build_of(roots, folder, opened, config)
        _run(build, f"indexing with {encoder.spec.name}")
    report = build.report
    if report is None:
        raise MmsearchError("the build ended without a report")
    for line in report.notices:
        note(line)
    if as_json:
        print_json(
            {
                "indexed": report.indexed,
                "unchanged": report.unchanged,
                "removed": report.removed,
                "failed": report.failed,
                "skipped": dict(report.skipped),
                "items": report.items,
                "seconds": round(report.seconds, 3),
                "images_per_second": round(report.images_per_second, 2),
                "index": str(folder),
                "model": encoder.spec.name,
                **({"ocr": asdict(report.ocr)} if report.ocr is not None else {}),
            }
        )
    else:
        _print_report(report, encoder, folder, time.monotonic() - began, first=first)


def _change_agreed(folder: Path, model: str) -> bool:
    """Whether the index at `folder` shall change to another model that `model` names: asked on a terminal. Wrong usage where
    nobody can be asked."""
    from indexer.run import change_of_model, other_model

    change = change_of_model(folder, model)
    if change is None:
        return False
    if sys.stdin.isatty() and sys.stderr.isatty():
        note(
            f"this index is of {change[0]}. Everything in it can be encoded anew by {change[1]}; until that is done, the old "
            "index is searched"
        )
        if typer.confirm("change the model?", err=True):
            return True
    raise typer.BadParameter(other_model(*change), param_hint="--model")


def _run(build: IndexBuild | ModelChange, what: str) -> None:
    # Ray prints what it thinks of dead workers, which the ledger tells in its own way.
    with (
        quiet_native_stderr() as stream,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        progress_bar(stream) as bar,
    ):
        task = bar.add_task(what, total=None, rate="", file="")
        began, stage = time.monotonic(), "encode"
        for event in build:
            if event.stage != stage:
                began, stage = time.monotonic(), event.stage
                bar.reset(task, description="all is searchable; reading the text in pictures")
            rate = event.done / max(1e-6, time.monotonic() - began)
            bar.update(
                task,
                completed=event.done,
                total=event.total,
                rate=f"{rate:.1f}/s" + (f" on {event.nodes} node(s)" if event.nodes else ""),
                file=shown(Path(event.path).name)[:48],
            )


def _named(folder: Path) -> str:
    """How other commands name the index, with a space before it; nothing where they find it from the working folder."""
    from retrieval.store.manifest import find_index

    try:
        if find_index(None, os.environ, Path.cwd()) == folder:
            return ""
    except MmsearchError:
        pass
    return f" {shlex.quote(near(str(folder.parent if folder.name == '.mmsearch' else folder)))}"


def _print_report(report: BuildReport, encoder: Encoder, folder: Path, seconds: float, *, first: bool) -> None:
    print(
        f"{report.indexed} indexed, {report.unchanged} unchanged, {report.removed} removed, {report.failed} failed; "
        f"{report.items} items searchable"
    )
    rate = f", {report.images_per_second:.1f} images/s" if report.encoded else ""
    print(f"{seconds:.1f} s{rate}; {encoder.spec.name} {encoder.running_on}; index {shown(str(folder))}")
    if report.skipped:
        kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in report.skipped.items()]
        more = f" and {len(kinds) - _KINDS_SHOWN} kinds more" if len(kinds) > _KINDS_SHOWN else ""
        print(f"not of a kind that is indexed: {shown(', '.join(kinds[:_KINDS_SHOWN]))}{more}")
    if report.ocr is not None and (report.ocr.read or report.ocr.left_out):
        more = f"; {report.ocr.left_out} left out as unlikely to hold any (--ocr all reads those)"
        print(
            f"text found in {report.ocr.with_text} of {report.ocr.read} pictures read in {report.ocr.seconds:.1f} s"
            f"{more if report.ocr.left_out else ''}"
        )
    named = _named(folder)
    if report.failed:
        print(f"what failed and why: mmsearch failures{named}")
    if first and report.items:
        option = f" --index{named}" if named else ""
        print(f'next: mmsearch search "words for what you look for"{option}')
        print(f"  or, in a browser: mmsearch serve --open{option}")


def _globs(given: Sequence[str]) -> tuple[str, ...]:
    from media.excludes import Excludes

    for glob in given:
        try:
            Excludes().with_more([glob])
        except ValueError as error:
            raise typer.BadParameter(f"{glob!r} is no pattern of a .gitignore", param_hint="--exclude") from error
    return tuple(given)


def _rebuild(folder: Path) -> None:
    from retrieval.store.writer import IndexWriter

    if not (folder / "manifest.json").is_file():
        raise IndexNotFoundError(f"no index at {folder}; make one with: mmsearch index FOLDER")
    with busy("making the vector files anew"), IndexWriter(folder) as writer:
        state = writer.rebuild_vectors()
    print(f"{len(state.vectors)} vector file(s) made anew over {sum(s.alive for s in state.shards)} items")
