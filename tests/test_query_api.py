"""The query line and its filters, from the command and through the API."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from retrieval.models.encoder import Encoder
from tests.conftest import Command, build, picture
from tests.servers import serving

CAMERA = 0x0110


def write_library(folder: Path) -> None:
    """Pictures of three years in three folders, with a camera each, one without anything; and a caption."""
    for number in range(9):
        file = folder / ["holiday/2023", "holiday/2024", "work"][number % 3] / f"photo{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[CAMERA] = ["iPhone 15", "EOS 5D\x01"][number % 2]
        exif.get_ifd(0x8769)[0x9003] = f"{2022 + number % 3}:0{1 + number}:15 12:00:00"
        picture(number).save(file, "JPEG", exif=exif)
    picture(20).save(folder / "plain.png")
    os.utime(folder / "plain.png", (1_577_880_000, 1_577_880_000))
    (folder / "holiday" / "2023" / "photo0.txt").write_text("the Red  Car at the harbour\n")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("line")
    write_library(folder)
    build(folder, mini)
    return folder


@pytest.fixture(scope="module")
def web(library: Path) -> Iterator[httpx.Client]:
    with serving(library / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def names(command: Command, library: Path, *arguments: str) -> list[str]:
    done = command("search", *arguments, "--index", str(library), "--json", "-k", "50")
    assert done.returncode == 0, done.stderr
    return [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()]


def test_a_filter_in_the_line_and_the_option_list_the_same(library: Path, command: Command) -> None:
    listed = names(command, library, "in:holiday/2023")
    assert listed == ["photo6.jpg", "photo3.jpg", "photo0.jpg"]
    assert names(command, library, "--in", "holiday/2023") == listed
    assert names(command, library, "in:holiday/2023", "--sort", "oldest") == listed[::-1]
    assert names(command, library, "after:2023", "camera:iphone", "before:2024-09") == names(
        command, library, "--after", "2023", "--camera", "IPHONE", "--before", "2024-09"
    )
    assert names(command, library, "before:2021") == ["plain.png"], "by the time of its file"
    assert names(command, library, "kind:text", '"red car"') == ["photo0.jpg"]
    assert names(command, library, "name:photo1") == ["photo1.jpg"]


def test_several_words_are_one_line_and_filters_keep_the_order(library: Path, command: Command) -> None:
    every = names(command, library, "colours", "at", "night")
    assert len(every) == 10 and every == names(command, library, "colours at night")
    within = names(command, library, "colours in:holiday at night")
    assert within == [name for name in every if name in set(names(command, library, "in:holiday"))]
    assert names(command, library, "colours -people 2:night + day") != []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["dog after:2023-13"], "is no date"),
        (["--before", "tomorrow"], "is no date"),
        (["kind:photo"], "use image, video, text"),
        (["--sort", "best", "dog"], "relevance, newest, oldest"),
        (["--region", "0,0,1,1", "dog"], "name the image"),
        (["--near", "200,0"], "latitudes are"),
        (["in:"], "needs the name of a folder"),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(
    library: Path, command: Command, arguments: list[str], reason: str
) -> None:
    done = command("search", *arguments, "--index", str(library))
    assert done.returncode == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_what_nothing_has_and_negation_in_words_are_told(library: Path, command: Command) -> None:
    done = command("search", "near:48.86,2.35", "--index", str(library), "--json")
    assert (done.returncode, done.stdout) == (0, "")
    assert "only pictures that hold a place pass" in done.stderr
    done = command("search", "a man without glasses", "--index", str(library), "--json")
    assert "to leave out glasses, write -glasses" in done.stderr and len(done.stdout.splitlines()) == 10
    done = command("search", "dog " * 10_000 + "after:2023", "--index", str(library), "--json")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 6


def test_a_part_of_a_picture_is_looked_for(library: Path, command: Command, tmp_path: Path) -> None:
    both = Image.new("RGB", (640, 240))
    for number, left in ((1, 0), (4, 320)):
        both.paste(picture(number, 320, 240), (left, 0))
    both.save(tmp_path / "both.png")
    for region, name in (("0,0,0.5,1", "photo1.jpg"), ("0.5,0,0.5,1", "photo4.jpg")):
        assert names(command, library, "--image", str(tmp_path / "both.png"), "--region", region)[0] == name


def search(web: httpx.Client, **asked: object) -> list[str]:
    reply = web.post("/api/search", json=asked)
    assert reply.status_code == 200, reply.text
    return [Path(hit["path"]).name for hit in reply.json()["hits"]]


def test_the_api_takes_the_line_and_fields(web: httpx.Client) -> None:
    assert search(web, text="in:holiday/2023") == ["photo6.jpg", "photo3.jpg", "photo0.jpg"]
    fields = {"in": ["holiday/2023", "work"], "after": "2023", "before": "2025", "camera": "iphone", "sort": "oldest"}
    assert search(web, **fields) == search(
        web, text="in:holiday/2023 in:work after:2023 before:2025 camera:iphone", sort="oldest"
    )
    every = search(web, text="colours")
    assert search(web, text="colours after:2024") == [name for name in every if name in search(web, after="2024")]
    fields_of_form = [("text", "colours"), ("in", "work"), ("in", "holiday"), ("after", "2024"), ("near", "")]
    form = web.post("/api/search", files=[(name, (None, value)) for name, value in fields_of_form])
    assert form.status_code == 200 and len(form.json()["hits"]) == 3
    noted = web.post("/api/search", json={"text": "no people rating:5"}).json()
    assert noted["hits"] == [] and "to leave out people, write -people" in noted["notes"]
    assert any("rated" in note for note in noted["notes"])


def test_a_list_is_read_in_pages(web: httpx.Client) -> None:
    pages, cursor = [], None
    while True:
        value = web.post("/api/search", json={"kind": "image", "k": 4, "cursor": cursor}).json()
        pages += [hit["path"] for hit in value["hits"]]
        cursor = value["next"]
        if cursor is None:
            break
    assert len(pages) == len(set(pages)) == 10


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"text": "after:soon"}, 400),
        ({"after": "", "text": "dog"}, 400),
        ({"text": "   "}, 400),
        ({"sort": "best", "text": "dog"}, 422),
        ({"in": "holiday", "text": "dog"}, 422),
        ({"text": "dog", "region": "0,0,1,1"}, 400),
        ({"text": "dog", "near": "Paris~0"}, 400),
    ],
)
def test_fields_that_make_no_sense_are_refused(web: httpx.Client, asked: dict[str, object], status: int) -> None:
    reply = web.post("/api/search", json=asked)
    assert reply.status_code == status and reply.json()["error"]


def test_a_part_of_a_picture_through_the_api(web: httpx.Client) -> None:
    both = Image.new("RGB", (640, 240))
    for number, left in ((1, 0), (4, 320)):
        both.paste(picture(number, 320, 240), (left, 0))
    out = io.BytesIO()
    both.save(out, "PNG")
    reply = web.post("/api/search", files={"image": ("q.png", out.getvalue())}, data={"region": "0.5,0,0.5,1"})
    assert Path(reply.json()["hits"][0]["path"]).name == "photo4.jpg"
    first = web.post("/api/search", json={"text": "name:photo4"}).json()["hits"][0]
    again = web.post("/api/search", json={"image_id": first["id"], "region": [0, 0, 1, 1]}).json()["hits"]
    assert again[0]["id"] == first["id"]


def test_facets_count_what_the_same_filters_leave(web: httpx.Client) -> None:
    value = web.get("/api/facets").json()
    assert value["years"] == {"2024": 3, "2023": 3, "2022": 3, "2020": 1}
    assert next(iter(value["months"].items())) == ("2024-09", 1) and sum(value["months"].values()) == 10
    assert value["folders"] == {"holiday": 6, "holiday/2023": 3, "holiday/2024": 3, "work": 3}
    assert sum(value["cameras"].values()) == 9 and value["places"] == {}
    assert value["kinds"] == {"image": 10, "text": 1}
    narrowed = web.get("/api/facets", params={"text": "dogs in:holiday", "after": "2023", "kind": "image"}).json()
    assert narrowed["years"] == {"2023": 3} and narrowed["kinds"] == {"image": 3}
    assert narrowed["folders"] == {"holiday": 3, "holiday/2024": 3}
    assert web.get("/api/facets", params=[("in", "work"), ("in", "2023")]).json()["kinds"]["image"] == 6
    assert web.get("/api/facets", params={"after": "soon"}).status_code == 400
