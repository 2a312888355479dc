"""What a model knows without having been shown it: everyday queries over the sample photos, and labels of labelled photos.

    python -m benchmarks.zero_shot --model mini --labelled LABELLED.parquet ...

A label's embedding is the mean of that of some sentences around it (Radford et al., CLIP, 2021). Judged are those labelled
photos that `training.mini` kept from training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.metrics import Floats
from benchmarks.samples import PHOTOS, copy_samples
from retrieval.models.encoder import Encoder

# What somebody would type for the sample photos, and the photo that should come first.
EVERYDAY = {
    "a cat": "chelsea.png",
    "cup of coffee": "coffee.png",
    "astronaut": "astronaut.png",
    "photographer with a tripod": "camera.png",
    "the moon": "moon.png",
    "a horse": "horse.png",
    "motorcycle": "motorcycle_left.png",
    "rocket launch": "rocket.jpg",
    "old coins": "coins.png",
    "brick wall": "brick.png",
    "grass": "grass.png",
    "small stones": "gravel.png",
    "chess board": "chessboard_GRAY.png",
    "stars in the night sky": "hubble_deep_field.jpg",
    "a wall clock": "clock_motion.png",
}
SENTENCES = ("a photo of {}", "a picture of {}", "a close-up of {}", "{}")


def everyday(encoder: Encoder) -> dict[str, str]:
    """The sample photo that each everyday query brings first."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        copy_samples(Path(folder))
        names = sorted(name for name in PHOTOS if (Path(folder) / name).is_file())
        photos = []
        for name in names:
            with Image.open(Path(folder) / name) as photo:
                photos.append(photo.convert("RGB"))
        images = encoder.encode_images(photos)
    first = (encoder.encode_texts(list(EVERYDAY)) @ images.T).argmax(1)
    return {query: names[at] for query, at in zip(EVERYDAY, first.tolist(), strict=True)}


def label_embeddings(encoder: Encoder, labels: Sequence[str]) -> Floats:
    """`(labels, d) float32`, unit rows."""
    from training.feed import with_article

    named = [with_article(label) for label in labels]
    rows = np.stack([encoder.encode_texts([sentence.format(name) for name in named]) for sentence in SENTENCES]).mean(0)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def top1(encoder: Encoder, files: Sequence[Path]) -> tuple[float, int, int]:
    """The share of the labelled photos kept from training whose own label is the nearest; how many photos and labels."""
    from PIL import Image

    from training.data import held_out, load_labelled

    _, held = load_labelled(files, encoder.spec.image_size, held_out)
    numbers = np.unique(held.labels)
    texts = label_embeddings(encoder, [held.names[number] for number in numbers])
    images = np.concatenate(
        [encoder.encode_images([Image.fromarray(image) for image in held.images[at : at + 64]])
         for at in range(0, len(held.labels), 64)]
    )  # fmt: skip
    right = numbers[(images @ texts.T).argmax(1)] == held.labels
    return float(right.mean()), len(right), len(numbers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zero_shot", description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--labelled", type=Path, nargs="*", default=[], help="tables with image, label, source, image_id"
    )
    given = parser.parse_args(arguments)
    encoder = Encoder.load(given.model, "cpu", "auto")
    brought = everyday(encoder)
    wrong = {query: name for query, name in brought.items() if name != EVERYDAY[query]}
    report: dict[str, object] = {"model": given.model, "everyday": len(EVERYDAY) - len(wrong), "of": len(EVERYDAY),
                                 "wrong": wrong}  # fmt: skip
    if given.labelled:
        share, photos, labels = top1(encoder, given.labelled)
        report["labelled"] = {"top1": round(share, 4), "photos": photos, "labels": labels}
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
