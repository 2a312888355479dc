"""PDFs: every page an item of its own, found by its looks and by its words, and shown with its number."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from indexer.build import IndexBuild
from indexer.config import BuildConfig, OcrConfig
from media.errors import MediaError
from media.foreign import page_of
from media.isolated import ImageDecoder
from media.pages import MOST_PAGES
from media.reader import ImageReader
from media.types import Place
from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.store.leases import open_state
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Item, Query
from tests.browsers import tab_of
from tests.conftest import Command, build
from tests.films import same_picture, scene
from tests.libraries import run
from tests.servers import serving
from tests.stores import LettersRecogniser, PlainEncoder

pytest.importorskip("pypdfium2")
RED, GREEN, BLUE = (1, 0, 0), (0, 1, 0), (0, 0, 1)
Page = tuple[tuple[int, int, int], str]


def pdf(pages: Sequence[Page], width: int = 200, height: int = 300) -> bytes:
    """Pages of a colour, with words on them where there are any."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, (color, words) in enumerate(pages):
        drawn = f"{' '.join(map(str, color))} rg 0 0 {width} {height} re f"
        drawn += f" 0 g BT /F1 12 Tf 10 150 Td ({words}) Tj ET" if words else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


THREE: tuple[Page, ...] = ((RED, "the first"), (GREEN, "giraffe in the second"), (BLUE, ""))


def rows(index: Path, kind: str) -> list[Item]:
    lease = open_state(index)
    try:
        reader = ShardReader(index, lease.manifest)
        return sorted(
            (item for item in reader.items(*reader.living()) if item.kind == kind), key=lambda item: item.path
        )
    finally:
        lease.close()


def test_every_page_is_an_item_with_its_text(tmp_path: Path) -> None:
    folder, index = tmp_path / "papers", tmp_path / "index"
    folder.mkdir()
    file = folder / "report.pdf"
    file.write_bytes(pdf(THREE))
    report = run(index, folder)
    assert (report.indexed, report.failed, report.items) == (1, 0, 5)
    pages = rows(index, "image")
    assert [item.path for item in pages] == [f"{file}::{number}" for number in (1, 2, 3)]
    assert {(item.source, item.width, item.height) for item in pages} == {(str(file), 200, 300)}
    images = ImageReader(64)
    for item, color in zip(pages, (RED, GREEN, BLUE), strict=True):
        shown = np.asarray(images.image(item.image_place))[20, 20]
        assert abs(shown.astype(int) - 255 * np.array(color)).max() < 6
    texts = rows(index, "text")
    assert [(item.path, item.text, item.text_kind) for item in texts] == [
        (f"{file}::1", "the first", "passage"),
        (f"{file}::2", "giraffe in the second", "passage"),
    ]
    again = run(index, folder)
    assert (again.indexed, again.unchanged, again.encoded) == (0, 1, 0)
    os.rename(file, folder / "renamed.pdf")
    renamed = run(index, folder)
    assert (renamed.indexed, renamed.removed, renamed.encoded, renamed.items) == (1, 1, 0, 5)
    file = folder / "renamed.pdf"
    file.write_bytes(pdf(THREE[:1]))
    assert run(index, folder).items == 2
    file.unlink()
    (folder / "a.txt").write_text("left")
    assert (run(index, folder).items, len(rows(index, "image"))) == (1, 0)


def test_of_a_long_pdf_the_first_pages_are_indexed_and_the_ledger_says_so(tmp_path: Path) -> None:
    folder, index = tmp_path / "papers", tmp_path / "index"
    folder.mkdir()
    (folder / "book.pdf").write_bytes(pdf([((n % 2, n % 3 % 2, n % 5 % 2), "") for n in range(MOST_PAGES + 3)], 40, 60))
    report = run(index, folder)
    assert (report.indexed, report.failed, report.items) == (1, 1, MOST_PAGES)
    (failure,) = read_failures(index, read_manifest(index))
    assert failure.reason == f"has {MOST_PAGES + 3} pages, of which the first {MOST_PAGES} are indexed"


@pytest.mark.parametrize("end", range(0, 1500, 71))
def test_a_pdf_that_ends_anywhere_is_read_or_in_the_ledger(end: int, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(pdf(THREE)[:end])
    (folder / "b.txt").write_text("beside it")
    report = run(tmp_path / "index", folder)
    failures = read_failures(tmp_path / "index", read_manifest(tmp_path / "index"))
    assert report.items > 1 or [failure.path for failure in failures] == [str(folder / "a.pdf")]
    assert all(failure.reason and "\n" not in failure.reason for failure in failures)


def test_a_page_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "report.pdf"
    file.write_bytes(pdf(THREE))
    with ImageDecoder(1) as decoder:
        document = decoder.document(str(file))
        assert (document.pages, document.texts[1].strip(), document.texts[2]) == (3, "giraffe in the second", "")
        assert decoder.page(str(file), 2, 64).width == 200
        for number in (0, 4):
            with pytest.raises(MediaError, match=r"page|PDF"):
                decoder.page(str(file), number, 64) if number else ImageReader(32).image(Place(path=f"{file}::0"))
        with pytest.raises(MediaError):
            decoder.document(str(tmp_path / "gone.pdf"))
        assert decoder.page(str(file), 3, 64).height == 300


def test_what_names_a_page() -> None:
    assert page_of("/a/b.PDF::12") == ("/a/b.PDF", 12)
    assert page_of("/a/b.pdf") is page_of("/a/b.pdf::x") is page_of("/a/b.tar::1") is page_of("/a/b.pdf::²") is None


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """A PDF of four photos, a copy of it, and one with words."""
    folder = tmp_path_factory.mktemp("papers")
    photos = [scene(seed, 400, 300) for seed in (0, 1, 2, 5)]
    out = io.BytesIO()
    photos[0].save(out, "PDF", save_all=True, append_images=photos[1:], resolution=72)
    (folder / "album.pdf").write_bytes(out.getvalue())
    shutil.copy(folder / "album.pdf", folder / "album copy.pdf")
    (folder / "words.pdf").write_bytes(pdf(THREE))
    build(folder, mini)
    return folder


def test_a_page_is_found_alone_by_looks_and_by_words(library: Path) -> None:
    with Engine.open(library, device="cpu") as engine:
        for number, seed in enumerate((0, 1, 2, 5), 1):
            hit = engine.search(Query(images=(scene(seed, 400, 300),), k=5))[0]
            assert page_of(hit.item.path) is not None
            assert {hit.item.path, *hit.copies} == {
                f"{library / name}::{number}" for name in ("album.pdf", "album copy.pdf")
            }
        (words, *_) = engine.search(Query(text="giraffe", k=3))
        assert (words.item.path, words.item.kind) == (f"{library / 'words.pdf'}::2", "image")
        (passage, *_) = engine.search(Query(text="giraffe", k=3, kind="text"))
        assert (passage.item.path, passage.item.text) == (f"{library / 'words.pdf'}::2", "giraffe in the second")
        # Equal documents are one group, by their first pages.
        (group,) = engine.duplicates()
        assert (group.kind, {item.path for item in group.items}) == (
            "same",
            {f"{library / name}::1" for name in ("album.pdf", "album copy.pdf")},
        )


def test_the_table_and_the_server_show_the_page(library: Path, command: Command) -> None:
    done = command("search", "giraffe", "-k", "1", cwd=library)
    assert "words.pdf, page 2" in done.stdout
    (line,) = command("search", "giraffe", "-k", "1", "--json", cwd=library).stdout.splitlines()
    assert json.loads(line)["path"] == f"{library / 'words.pdf'}::2"
    assert json.loads(command("status", str(library), "--json").stdout)["images"] == 11
    with serving(library / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as web:
        (hit,) = web.post("/api/search", json={"text": "giraffe", "k": 1}).json()["hits"]
        whole = web.get(hit["media_url"])
        assert whole.content == (library / "words.pdf").read_bytes()
        assert 'filename="words.pdf"' in whole.headers["content-disposition"]
        thumb = Image.open(io.BytesIO(web.get(hit["thumb_url"]).content))
        assert abs(np.asarray(thumb)[10, 10].astype(int) - (0, 255, 0)).max() < 12
        (text,) = web.post("/api/search", json={"text": "giraffe", "kind": "text", "k": 1}).json()["hits"]
        assert web.get(text["thumb_url"]).status_code == 200
        assert same_picture(Image.open(io.BytesIO(web.get(f"/thumb/{hit['id']}").content)), thumb) < 2


def test_the_page_of_the_browser_names_the_page_of_the_document(library: Path, browser: Browser) -> None:
    with serving(library / ".mmsearch") as address, tab_of(browser, address) as tab:
        page = tab.open("/?q=giraffe")
        page.locator('#grid a.tile[aria-label^="words.pdf, page 2"]').first.click()
        expect(page.locator("#name")).to_have_text("words.pdf, page 2")
        assert (page.locator("#open").get_attribute("href") or "").endswith("#page=2")


def test_pages_without_text_are_read_and_others_are_not(tmp_path: Path) -> None:
    folder, index = tmp_path / "papers", tmp_path / "index"
    folder.mkdir()
    (folder / "scan.pdf").write_bytes(pdf([(RED, ""), (GREEN, "")]))
    (folder / "words.pdf").write_bytes(pdf(THREE[:2]))
    ocr = OcrConfig(recogniser=LettersRecogniser(), reading="all")
    made = IndexBuild([folder], index, PlainEncoder(), BuildConfig(batch_size=4, workers=2, ocr=ocr))
    for _ in made:
        pass
    assert made.report is not None and made.report.ocr is not None
    assert (made.report.ocr.read, made.report.ocr.with_text, made.report.ocr.failed) == (2, 1, 0)
    assert [text.path for text in rows(index, "text") if text.text_kind == "ocr"] == [f"{folder / 'scan.pdf'}::1"]
