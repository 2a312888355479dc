"""A small index of photos with dates and places, a film with subtitles, one that no browser plays, captions and notes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.synthetic_videos import VideoFormat
from retrieval.models.encoder import Encoder
from tests.conftest import build
from tests.films import film, scene

CAMERA = "Made Up 15"
CUES = ((0.4, 1.9, "Before the flight."), (2.2, 3.8, "This is my ginger cat."), (4.2, 5.9, "Coffee in the harbour."),
        (6.2, 7.8, "The rocket stands there."))  # fmt: skip
# Parts of two photos side by side, and the plain photos, by the seeds of `scene`.
PLAIN = {"astronaut": 0, "cat": 1, "coffee": 2, "rocket": 3, "horse": 4, "coins": 5}


def write_shelf(folder: Path) -> None:
    """Six photos of one day in Paris, one of another year in Rome, a large one of two halves, films and texts."""
    for number, (name, seed) in enumerate(PLAIN.items()):
        _photo(folder / "trip" / "paris" / f"{name}.jpg", seed, f"2023:12:25 1{number}:00:00", 48.8584, 2.2945)
    _photo(folder / "trip" / "rome" / "moon.jpg", 6, "2022:06:14 10:00:00", 41.9029, 12.4534)
    (folder / "trip" / "paris" / "cat.txt").write_text("the tired animal of our neighbours\n")
    pair = Image.new("RGB", (3000, 1500))
    pair.paste(scene(1, 1500, 1500), (0, 0))
    pair.paste(scene(3, 1500, 1500), (1500, 0))
    pair.save(folder / "pair.jpg", quality=85)
    shown = VideoFormat(width=320, height=240, rate=20, options={"preset": "ultrafast", "g": "20"})
    film(folder / "films" / "talk.mp4", (10, 11, 12, 13), 2, shown, draw=scene)
    lines = [f"{n}\n{_stamp(a)} --> {_stamp(b)}\n{text}\n" for n, (a, b, text) in enumerate(CUES, 1)]
    (folder / "films" / "talk.srt").write_text("\n".join(lines))
    film(
        folder / "films" / "old.avi",
        (14, 15),
        2,
        VideoFormat(width=320, height=240, rate=20, codec="mpeg4", options={}),
        draw=scene,
    )
    (folder / "notes.txt").write_text("A note about boats in the evening.\n")


def make_shelf(folder: Path, mini: Encoder) -> Path:
    """The same, indexed into itself."""
    write_shelf(folder)
    build(folder, mini)
    return folder


def _photo(file: Path, seed: int, when: str, latitude: float, longitude: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0110] = CAMERA
    exif.get_ifd(0x8769)[0x9003] = when
    exif.get_ifd(0x8825).update({1: "N", 2: _degrees(latitude), 3: "E", 4: _degrees(longitude)})
    scene(seed, 800, 600).save(file, quality=90, exif=exif)


def _degrees(value: float) -> tuple[float, float, float]:
    whole = int(value)
    minutes = int((value - whole) * 60)
    return float(whole), float(minutes), round(((value - whole) * 60 - minutes) * 60, 2)


def _stamp(seconds: float) -> str:
    return f"00:00:{int(seconds):02},{round(seconds % 1 * 1000):03}"
