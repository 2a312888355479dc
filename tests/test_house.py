"""The house rules that a machine can hold: who imports whom, and what starting up may load."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT

# The plain values, which import nothing but each other; `Query.parse` reads a line.
BASE = {"types", "errors", "filter"}
OF_BASE = {"retrieval.errors", "retrieval.filter", "retrieval.query"}
# What each top folder may import of the others.
ALLOWED = {
    "media": {"media"},
    "retrieval": {"retrieval", "media"},
    "indexer": {"indexer", "retrieval", "media"},
    "cli": {"cli", "indexer", "retrieval", "media", "benchmarks", "training", "server"},
    "client": {"client", "retrieval", "media"},
    "server": {"server", "indexer", "retrieval", "media"},
    "benchmarks": {"benchmarks", "indexer", "retrieval", "media", "training"},
    "training": {"training", "benchmarks", "indexer", "retrieval", "media"},
}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", sorted(name for name in ALLOWED if (ROOT / name).is_dir()))
def test_folders_import_only_downwards(folder: str) -> None:
    files = modules(folder)
    assert files
    for file in files:
        own = {name.split(".")[0] for name in imports(file)} & set(ALLOWED)
        assert own <= ALLOWED[folder], f"{file} imports {own - ALLOWED[folder]}"


def test_nothing_in_retrieval_imports_the_engine_and_types_import_nothing() -> None:
    for file in modules("retrieval"):
        names = imports(file)
        if file.stem in BASE:
            assert {name for name in names if name.startswith("retrieval")} <= OF_BASE, file
        assert "retrieval.engine" not in names, file
    for file in modules("indexer"):
        assert "retrieval.engine" not in imports(file), file


def test_faiss_and_pyarrow_are_used_by_what_an_index_is_on_disk_alone() -> None:
    for file in [*modules("retrieval"), *modules("cli")]:
        packages = {name.split(".")[0] for name in imports(file)}
        # `doctor` tells which Faiss there is.
        assert "faiss" not in packages or file.stem in {"vector_files", "vector_index", "doctor"}, file
        assert "pyarrow" not in packages or file.parent.name == "store", file


def test_no_file_is_longer_than_it_may_be() -> None:
    for folder in ALLOWED:
        for file in modules(folder):
            assert len(file.read_text("utf-8").splitlines()) <= 420, file


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(' '.join(m for m in sys.modules if '.' not in m))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_neither_torch_nor_faiss() -> None:
    code = "import sys, cli.main\nsys.argv = ['mmsearch', '--help']\ntry:\n    cli.main.main()\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & {"torch", "faiss", "open_clip", "pyarrow", "onnxruntime", "PIL"}


def test_importing_the_public_module_loads_no_library() -> None:
    heavy = {"torch", "faiss", "open_clip", "onnxruntime", "pyarrow", "PIL", "numpy", "httpx"}
    assert not loaded_by("import mmsearch") & heavy
    assert not loaded_by("import mmsearch\nmmsearch.Query(text='a dog', kind='image')") & heavy


def test_a_client_of_a_server_needs_no_model() -> None:
    code = "import mmsearch\nmmsearch.connect('http://127.0.0.1:9').close()"
    assert not loaded_by(code) & {"torch", "faiss", "open_clip", "onnxruntime", "pyarrow", "PIL", "numpy", "fastapi"}


def test_running_the_public_module_for_help_loads_no_library() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['mmsearch', '--help']\n"
        "try:\n    runpy.run_module('mmsearch', run_name='__main__')\nexcept SystemExit:\n    pass"
    )
    assert not loaded_by(code) & {"torch", "faiss", "open_clip", "onnxruntime", "pyarrow", "PIL", "numpy"}


def test_public_names_are_the_documented_ones() -> None:
    import mmsearch
    import retrieval.errors
    import retrieval.types

    assert sorted(mmsearch.__all__) == [
        "Answer",
        "AsyncClient",
        "Client",
        "Engine",
        "Filter",
        "Hit",
        "Item",
        "MmsearchError",
        "Near",
        "Query",
        "Rerank",
        "Term",
        "connect",
        "connect_async",
        "index",
        "open",
        "open_image",
    ]
    for module in (mmsearch, retrieval.errors, retrieval.types):
        for name in module.__all__:
            assert hasattr(module, name), name
    for name in retrieval.errors.__all__:
        assert issubclass(getattr(retrieval.errors, name), retrieval.errors.MmsearchError)


def test_what_is_installed_is_every_package_that_there_is() -> None:
    with open(ROOT / "pyproject.toml", "rb") as opened:
        packages = tomllib.load(opened)["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for file in ROOT.rglob("__init__.py")}
    here = {".".join(folder.parts) for folder in folders if folder.parts[0] not in ("tests", ".venv")}
    assert sorted(set(packages) - {"retrieval.models.mini", "retrieval.models.probes"}) == sorted(here)
