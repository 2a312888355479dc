"""`mmsearch export`, by the real command: what it writes is what searches give."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from retrieval.engine import Engine
from retrieval.store.export import export
from retrieval.types import Query
from tests.conftest import Command, build, write_photos
from tests.stores import items, make_index, remove_rows, result, spec, unit_rows


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    write_photos(folder, 6)
    (folder / "note.txt").write_text('=HYPERLINK("http://evil.example")')
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "w") as out:
        out.write("-1+1 in a name that is not UTF-8")
    build(folder, mini)  # type: ignore[arg-type]
    return folder


def test_ids_paths_and_embeddings_agree_with_what_a_search_gives(media: Path, command: Command, tmp_path: Path) -> None:
    done = command("export", "--output", "all.parquet", "--index", str(media), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["items"], report["dim"], report["format"], report["model"]) == (8, 256, "parquet", "mini")
    table = pq.read_table(tmp_path / "all.parquet")
    rows = {row["id"]: row for row in table.to_pylist()}
    assert table.schema.metadata[b"model"] == b"mini"
    with Engine.open(media, device="cpu") as engine:
        for kind, count in (("image", 6), ("text", 2)):
            query = Query(text="a dog", kind=kind)  # type: ignore[arg-type]
            hits = engine.search(query)
            assert len(hits) == count
            for hit in hits:
                row = rows[hit.item.id]
                assert (row["kind"], row["text"], row["width"]) == (hit.item.kind, hit.item.text, hit.item.width)
                assert os.fsencode(hit.item.path) == (row["path_raw"] or row["path"].encode())
                assert np.dot(np.array(row["embedding"], np.float32), engine.embed(query)) == pytest.approx(
                    hit.score, abs=1e-5
                )


def test_a_cell_that_a_spreadsheet_would_run_is_text(media: Path, command: Command, tmp_path: Path) -> None:
    assert command("export", "--output", "t.csv", "--kind", "text", "--index", str(media)).returncode == 0
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert sorted(row["text"] for row in rows) == [
        "'-1+1 in a name that is not UTF-8",
        '\'=HYPERLINK("http://evil.example")',
    ]
    assert {row["kind"] for row in rows} == {"text"}
    export(media / ".mmsearch", tmp_path / "t.npy", "npy", kinds=["text"])
    wanted = np.load(tmp_path / "t.npy")
    assert np.array_equal(np.array([[row[f"embedding_{n}"] for n in range(256)] for row in rows], np.float16), wanted)


def test_a_matrix_has_its_ids_beside_it(media: Path, command: Command, tmp_path: Path) -> None:
    done = command("export", "--output", "m.npy", "--precision", "float32", "--index", str(media))
    assert done.returncode == 0 and "m.npy and m.jsonl" in done.stdout
    matrix = np.load(tmp_path / "m.npy")
    facts = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert (matrix.dtype, matrix.shape, len(facts)) == (np.float32, (8, 256), 8)
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(1, abs=2e-3)
    with Engine.open(media, device="cpu") as engine:
        best = engine.search(Query(like=(facts[0]["id"],), kind=facts[0]["kind"], k=1))[0]
    assert best.item.id == facts[0]["id"]


def test_rows_of_files_that_are_gone_are_not_exported_and_memory_follows_the_batch(tmp_path: Path) -> None:
    from retrieval.store.writer import IndexWriter

    index = tmp_path / "index"
    make_index(index, [("image", 5000), ("text", 40)])
    with IndexWriter(index, spec()) as writer:
        writer.journal(result(writer, items(10, "image", 5000), unit_rows(10)))
        writer.publish()
        remove_rows(writer, 0, np.arange(4000, 4200))
    done = export(index, tmp_path / "all.parquet", "parquet")
    ids = pq.read_table(tmp_path / "all.parquet").column("id").to_pylist()
    assert done.items == len(ids) == len(set(ids)) == 5000 - 200 + 10 + 40
    assert "image-4100" not in ids and "image-4300" in ids and "image-5009" in ids
    assert pq.ParquetFile(tmp_path / "all.parquet").num_row_groups > 1, "written as it is read, not at once"


def test_wrong_usage_says_what_would_be_right(media: Path, command: Command) -> None:
    for arguments, expected in (
        (("--output", "x.csv", "--format", "xls"), "parquet, csv, npy"),
        (("--output", "x.csv", "--kind", "sound"), "image, video, text"),
        (("--output", "x.csv", "--precision", "int8"), "float16, float32"),
    ):
        done = command("export", *arguments, "--index", str(media))
        assert done.returncode == 2 and expected in done.stderr
    done = command("export", "--output", "/no/such/folder/x.csv", "--index", str(media))
    assert done.returncode == 1 and done.stderr.startswith("error: cannot write /no/such/folder/x.csv")
