"""How much of the text in pictures `--ocr auto` finds, at which share of the cost of `all`: `python -m benchmarks.ocr`.

Made-up documents, screens, receipts, passes and signs in photos, among photos without text: crops of the sample photos, or
those of `--photos`. Prints JSON. With `--fit`, also what other thresholds would give.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.samples import copy_samples
from indexer.likeness import THRESHOLD, TextLikeness
from media.recognition import RapidRecogniser
from retrieval.models.encoder import Encoder
from retrieval.terms import query_words

MADE = ("document", "receipt", "pass", "screen", "sign", "page")
_WORDS = (
    *(
        "invoice",
        "total",
        "meeting",
        "river",
        "agenda",
        "signature",
        "passenger",
        "harbour",
        "platform",
        "ticket",
        "balance",
    ),
    *(
        "report",
        "winter",
        "garden",
        "station",
        "account",
        "delivery",
        "kitchen",
        "museum",
        "concert",
        "library",
        "window",
    ),
    *("summer", "market", "policy", "number", "address", "street", "country", "exit"),
)


def made_picture(kind: str, seed: int, photo: Image.Image) -> Image.Image:
    """A picture with text, of one of the kinds of `MADE`; `photo` is what a sign stands in, or a page lies on."""
    chance = random.Random(f"{kind} {seed}")
    if kind == "sign":
        return _sign(chance, photo)
    if kind == "page":
        page = _lines(chance, (700, 900), 24, (250, 246, 235), (60, 55, 50), 22)
        angle = chance.uniform(-20, 20)
        turned = page.convert("RGBA").rotate(angle, expand=True, resample=Image.Resampling.BICUBIC).convert("RGBA")
        ground = photo.resize((1200, 1200)).convert("RGB")
        ground.paste(turned, ((1200 - turned.width) // 2, (1200 - turned.height) // 2), turned)
        return ground.filter(ImageFilter.GaussianBlur(0.7))
    if kind == "receipt":
        return _lines(chance, (420, 1100), 26, (245, 245, 242), (70, 70, 75), 24)
    if kind == "pass":
        return _pass(chance)
    if kind == "screen":
        picture = _lines(chance, (1280, 720), 14, (24, 26, 32), (210, 215, 225), 26)
        ImageDraw.Draw(picture).rectangle((0, 0, 1280, 40), fill=(60, 64, 80))
        return picture
    return _lines(chance, (1000, 1400), 34, (255, 255, 255), (20, 20, 20), 26)


def _text(chance: random.Random, words: int) -> str:
    parts = [chance.choice(_WORDS) for _ in range(words)]
    parts[chance.randrange(words)] = f"{chance.choice('ABKLMZ')}{chance.randrange(100, 9999)}"
    return " ".join(parts)


def _lines(
    chance: random.Random, size: tuple[int, int], count: int, paper: tuple[int, ...], ink: tuple[int, ...], points: int
) -> Image.Image:
    picture = Image.new("RGB", size, paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(points)
    step = size[1] // (count + 3)
    for line in range(count):
        if chance.random() < 0.85:
            words = chance.randrange(2, max(3, size[0] // (6 * points)))
            draw.text((points * 2, step * (line + 2)), _text(chance, words), font=font, fill=ink)
    return picture


def _pass(chance: random.Random) -> Image.Image:
    picture = Image.new("RGB", (1200, 520), (240, 242, 246))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 1200, 90), fill=(20, 50, 110))
    draw.text((40, 20), "BOARDING PASS", font=ImageFont.load_default(48), fill=(255, 255, 255))
    for place, text in enumerate(
        (f"FLIGHT LH {chance.randrange(1000, 9999)}", f"SEAT {chance.randrange(1, 40)}A", _text(chance, 2))
    ):
        draw.text((40 + 380 * place, 200), text, font=ImageFont.load_default(36), fill=(20, 20, 30))
    for bar in range(60):
        x = 700 + bar * 7
        draw.rectangle((x, 340, x + chance.randrange(1, 5), 470), fill=(0, 0, 0))
    return picture


def _sign(chance: random.Random, photo: Image.Image) -> Image.Image:
    """A sign that takes a tenth to a half of the width of a photo."""
    ground = photo.resize((1200, 900)).convert("RGB")
    text = _text(chance, 2)
    font = ImageFont.load_default(60)
    left, top, right, bottom = ImageDraw.Draw(ground).textbbox((0, 0), text, font=font)
    paint = chance.choice([(0, 90, 50), (250, 210, 0), (240, 240, 240)])
    board = Image.new("RGB", (int(right - left) + 60, int(bottom - top) + 50), paint)
    ImageDraw.Draw(board).text((30 - left, 25 - top), text, font=font, fill=(10, 10, 10))
    width = round(1200 * chance.uniform(0.2, 0.6))
    board = board.resize((width, round(board.height * width / board.width)))
    ground.paste(board, (chance.randrange(0, 1200 - width), chance.randrange(100, 800 - board.height)))
    return ground


def photos_of(place: Path | None, scratch: Path, count: int) -> list[Image.Image]:
    """Photos: of a table's column `image`, or random crops of the sample photos that are no text themselves."""
    chance = random.Random(7)
    if place is not None:
        import pyarrow.parquet as pq

        column = pq.read_table(place, columns=["image"]).column("image")
        rows = chance.sample(range(len(column)), min(count, len(column)))
        encoded = [column[row].as_py() for row in rows]
        return [
            Image.open(io.BytesIO(one["bytes"] if isinstance(one, dict) else one)).convert("RGB") for one in encoded
        ]
    copy_samples(scratch)
    files = [
        file for file in sorted(scratch.glob("*.[jp][pn]g")) if file.stem not in ("page", "text", "phantom", "cell")
    ]
    pictures = []
    for number in range(count):
        whole = Image.open(files[number % len(files)]).convert("RGB")
        side = chance.uniform(0.6, 1) * min(whole.size)
        left, top = chance.uniform(0, whole.width - side), chance.uniform(0, whole.height - side)
        pictures.append(whole.crop((int(left), int(top), int(left + side), int(top + side))).resize((800, 800)))
    return pictures


def pictures(photos: list[Image.Image], made: int) -> Iterator[tuple[str, Image.Image]]:
    """Every photo, and so many pictures of each kind of `MADE`."""
    for photo in photos:
        yield "photo", photo
    for kind in MADE:
        for seed in range(made):
            yield kind, made_picture(kind, seed, photos[seed % len(photos)])


def main() -> None:
    """Make the pictures, embed and read each, and compare what a threshold would have read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="repeatable; by default mini")
    parser.add_argument("--photos", type=Path, help="a Parquet table with a column image; by default the sample photos")
    parser.add_argument("--count", type=int, default=60, help="photos")
    parser.add_argument("--made", type=int, default=6, help="made pictures of each kind")
    parser.add_argument("--fit", action="store_true", help="what other thresholds would give, too")
    given = parser.parse_args()
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        every = list(pictures(photos_of(given.photos, Path(scratch), given.count), given.made))
    recogniser = RapidRecogniser()
    recogniser.read(every[-1][1])
    terms, seconds = [], []
    for _, picture in every:
        began = time.process_time()
        lines = recogniser.read(picture)
        seconds.append(time.process_time() - began)
        terms.append(sum(len(query_words(line.text)) for line in lines))
    kinds = np.array([kind for kind, _ in every])
    words, cost = np.array(terms, np.int64), np.array(seconds)
    report: dict[str, object] = {
        "pictures": len(every), "words_of_all": int(words.sum()), "cpu_seconds_of_all": round(float(cost.sum()), 1),
        "photos_with_text": int((words[kinds == "photo"] > 0).sum()),
    }  # fmt: skip
    for model in given.model or ["mini"]:
        encoder = Encoder.load(model, "cpu", "auto")
        encoder.warm()
        embeddings = np.concatenate([encoder.encode_pixels([encoder.preprocess(picture)]) for _, picture in every])
        scores = TextLikeness.of(encoder).scores(embeddings)
        thresholds = [THRESHOLD, *(np.arange(0.2, 0.81, 0.1).tolist() if given.fit else [])]
        report[Path(model).stem] = [_outcome(threshold, scores, kinds, words, cost) for threshold in thresholds]
    print(json.dumps(report, indent=2))


def _outcome(
    threshold: float,
    scores: NDArray[np.float32],
    kinds: NDArray[np.str_],
    words: NDArray[np.int64],
    cost: NDArray[np.float64],
) -> dict[str, object]:
    """What reading only the pictures above a threshold finds, and costs."""
    read = scores >= threshold
    share = {kind: read[kinds == kind] for kind in dict.fromkeys(kinds.tolist())}
    return {
        "threshold": threshold,
        "share_of_words": round(float(words[read].sum() / max(1, words.sum())), 4),
        "share_of_cost": round(float(cost[read].sum() / cost.sum()), 4),
        "read": {kind: f"{int(here.sum())}/{len(here)}" for kind, here in share.items()},
    }


if __name__ == "__main__":
    main()
