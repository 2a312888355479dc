"""`mmsearch status`, `failures`, `compact` and `doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.terminal import busy, interruptible, near, print_json, shown, write_lines
from retrieval.errors import MmsearchError

IndexOption = Annotated[Optional[str], typer.Option("--index", help="The index, or a folder that has one.")]
FolderArgument = Annotated[
    Optional[str],
    typer.Argument(metavar="FOLDER", help="The indexed folder; else the nearest one upwards.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def named_index(folder: str | None, index: str | None) -> str | None:
    """The index that a command was told of: by `--index`, or by the folder that it is of, or a part of that. Raises
    `typer.BadParameter` where both were given, and `IndexNotFoundError`."""
    if folder is not None and index is not None:
        raise typer.BadParameter("name the folder or --index, not both")
    if folder is None:
        return index
    from retrieval.store.manifest import find_index

    place = Path(os.path.abspath(Path(folder).expanduser()))
    if (place / "manifest.json").is_file() or not place.is_dir():
        return str(place)
    return str(find_index(None, {}, place))


def status_command(folder: FolderArgument = None, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """What an index holds."""
    from retrieval.engine import Engine

    with Engine.open(named_index(folder, index)) as engine:
        status = engine.status()
        place = engine.folder
    if as_json:
        print_json(status)
        return
    print(f"index         {shown(str(place))}")
    for key, value in status.items():
        text = _size(value) if key == "bytes" and isinstance(value, int) else value
        print(f"{key.replace('_', ' '):<13} {text}")


def failures_command(folder: FolderArgument = None, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Files that could not be indexed, and why."""
    from retrieval.engine import Engine

    with Engine.open(named_index(folder, index)) as engine:
        failures = engine.failures()
    if as_json:
        write_lines({"path": failure.path, "stage": failure.stage, "reason": failure.reason} for failure in failures)
        return
    for failure in failures:
        print(f"{near(failure.path)}: {failure.stage}: {shown(failure.reason)}")
    if not failures:
        print("no failures")


def compact_command(folder: FolderArgument = None, index: IndexOption = None) -> None:
    """Rewrite an index at full shard size, without the rows of files that are gone."""
    from retrieval.store.manifest import find_index
    from retrieval.store.writer import IndexWriter

    place = find_index(named_index(folder, index), os.environ, Path.cwd())
    with interruptible(), busy("rewriting the shards"), IndexWriter(place) as writer:
        before = sum(entry.bytes for entry in writer.manifest.files())
        shards = len(writer.manifest.shards)
        state = writer.compact()
    after = sum(entry.bytes for entry in state.files())
    print(f"{shards} shards to {len(state.shards)}, {_size(before)} to {_size(after)}")


def doctor_command(as_json: JsonOption = False) -> None:
    """What this machine and this installation offer, and what is wrong with them."""
    from retrieval.models.loading import cpu_has_bf16
    from retrieval.models.weights import cache_dir

    problems: list[str] = []
    report: dict[str, object] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu_bf16": cpu_has_bf16(),
        "cache": str(cache_dir()),
    }
    for package in ("torch", "open-clip-torch", "onnxruntime", "numpy", "pyarrow", "pillow", "pillow-heif"):
        try:
            report[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            problems.append(f"{package} is not installed")
    try:
        import faiss

        report["faiss"] = faiss.__version__
        report["faiss_gpus"] = faiss.get_num_gpus()
    except ImportError as error:
        problems.append(f"faiss cannot be imported: {error}")
    try:
        import torch

        report["cuda"] = torch.cuda.is_available()
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
    if report.get("cuda") and not report.get("faiss_gpus"):
        problems.append("torch sees a CUDA device, Faiss does not: vectors are searched on the CPU")
    if sys.platform == "darwin":
        problems.append(
            "torch and Faiss bring an OpenMP runtime each; if a command aborts, set KMP_DUPLICATE_LIB_OK=TRUE"
        )
    report["problems"] = problems
    if as_json:
        print_json(report)
        return
    for key, value in report.items():
        if key != "problems":
            print(f"{key:<16} {value}")
    for problem in problems:
        print(f"problem: {problem}")
    if not problems:
        print("no problems found")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise MmsearchError("unreachable size")
