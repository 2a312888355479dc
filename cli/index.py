"""`mmsearch index`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.terminal import busy, interruptible, note, print_json, progress_bar, quiet_native_stderr, shown
from retrieval.errors import IndexNotFoundError, MmsearchError

if TYPE_CHECKING:
    from indexer.build import BuildReport, IndexBuild
    from retrieval.models.encoder import Encoder


def index_command(
    paths: Annotated[
        Optional[list[str]], typer.Argument(help="Folders, files, .tar or .parquet.", show_default=False)
    ] = None,
    index: Annotated[Optional[str], typer.Option(help="Where the index is or shall be.")] = None,
    model: Annotated[
        str, typer.Option(help="ARCH/TAG, ARCH@FILE, hf-hub:ORG/REPO, local-dir:DIR, mini or auto.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Decoding threads; 0: one for each CPU.")] = 0,
    fps: Annotated[float, typer.Option(help="Frames a second that are taken of videos, where they move on.")] = 1.0,
    max_frames: Annotated[int, typer.Option(min=1, help="Most frames of one video.")] = 10_000,
    moment_fusion: Annotated[
        str, typer.Option(help="How a moment's frames become one embedding: mean or attention.")
    ] = "mean",
    transcribe: Annotated[
        bool, typer.Option("--transcribe", help="Make texts of what is said in videos and sound files.")
    ] = False,
    asr_model: Annotated[
        str, typer.Option(help="The speech model: a folder in CTranslate2 format, or a name in the cache.")
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
    began = time.monotonic()
    with interruptible():
        from indexer.build import BuildConfig, IndexBuild
        from indexer.roots import roots_of
        from indexer.run import index_folder, open_encoder
        from retrieval.crossmodal.moments import MOMENT_FUSIONS

        fusion = next((choice for choice in MOMENT_FUSIONS if choice == moment_fusion), None)
        if fusion is None:
            raise typer.BadParameter(f"{moment_fusion!r} is not mean or attention", param_hint="--moment-fusion")
        roots = roots_of(paths)
        folder = index_folder(index, roots)
        if rebuild_vectors:
            _rebuild(folder)
            return
        with busy("loading the model"):
            opened = open_encoder(folder, model, device, precision)
        encoder = opened.encoder
        for line in opened.notices:
            note(line)
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
        )
        build = IndexBuild(roots, folder, encoder, config)
        _run(build)
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
                "items": report.items,
                "seconds": round(report.seconds, 3),
                "images_per_second": round(report.images_per_second, 2),
                "index": str(folder),
                "model": encoder.spec.name,
            }
        )
    else:
        _print_report(report, encoder, folder, time.monotonic() - began)


def _run(build: IndexBuild) -> None:
    with quiet_native_stderr() as stream, progress_bar(stream) as bar:
        task = bar.add_task("indexing", total=None, rate="", file="")
        began = time.monotonic()
        for event in build:
            rate = event.done / max(1e-6, time.monotonic() - began)
            bar.update(
                task,
                completed=event.done,
                total=event.total,
                rate=f"{rate:.1f}/s",
                file=shown(Path(event.path).name)[:48],
            )


def _print_report(report: BuildReport, encoder: Encoder, folder: Path, seconds: float) -> None:
    print(
        f"{report.indexed} indexed, {report.unchanged} unchanged, {report.removed} removed, {report.failed} failed; "
        f"{report.items} items searchable"
    )
    rate = f", {report.images_per_second:.1f} images/s" if report.encoded else ""
    print(f"{seconds:.1f} s{rate}; {encoder.spec.name} {encoder.running_on}; index {shown(str(folder))}")
    if report.failed:
        print(f"what failed and why: mmsearch failures --index {shown(str(folder))}")


def _rebuild(folder: Path) -> None:
    from retrieval.store.writer import IndexWriter

    if not (folder / "manifest.json").is_file():
        raise IndexNotFoundError(f"no index at {folder}; make one with: mmsearch index FOLDER")
    with busy("making the vector files anew"), IndexWriter(folder) as writer:
        state = writer.rebuild_vectors()
    print(f"{len(state.vectors)} vector file(s) made anew over {sum(s.alive for s in state.shards)} items")
