"""Fine-tune any model on captioned images of your own: `python -m training.finetune --images DIR --captions FILE`.

A tenth of the images is held out; recall on them is printed before and after, and the epoch that did best on them is
what is written. The result is a folder for `--model local-dir:DIR`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from media.containers import read_bytes
from media.image import decode_image
from media.text import TABLE_SUFFIXES, caption_rows, decode_text
from retrieval.errors import MediaError, MmsearchError
from retrieval.models.loading import LoadedModel, load_model
from retrieval.models.weights import ModelFiles, resolve
from retrieval.types import ModelSpec
from training.checkpoint import CheckpointError, Diverged
from training.data import CaptionedImages, DataError, Statistics
from training.fit import FitConfig, evaluate, fit
from training.machine import keep_freed_memory

# Images are kept this much larger than the model's input, so that a random crop need not enlarge them.
MARGIN = 1.15


def main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tune, and write a model folder."""
    parser = argparse.ArgumentParser(prog="python -m training.finetune", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder that the captions' paths are relative to")
    parser.add_argument(
        "--captions", type=Path, required=True, help="csv, tsv or jsonl with a path and a caption column"
    )
    parser.add_argument("--model", default="mini", help="the model to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder for the result")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and the log; by default OUTPUT/work")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-5, help="greatest learning rate")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.epochs < 1 or given.batch < 2 or given.rate <= 0:
        parser.error("epochs must be at least 1, the batch at least 2, the rate above 0")
    try:
        finetune(
            given.images, given.captions, given.model, given.output, given.work or given.output / "work",
            epochs=given.epochs, batch=given.batch, rate=given.rate, device=given.device, seed=given.seed,
        )  # fmt: skip
    except (DataError, CheckpointError, Diverged, MmsearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def finetune(
    images: Path,
    captions: Path,
    model: str,
    output: Path,
    work: Path,
    *,
    epochs: int = 5,
    batch: int = 64,
    rate: float = 1e-5,
    device: str = "auto",
    seed: int = 1,
) -> None:
    """Train `model` on the images and write it to `output`; run again to resume from `work`.

    Raises `DataError` for captions that cannot be used and `ModelError` for a model that cannot be loaded.
    """
    keep_freed_memory()
    files = resolve(model)
    loaded = load_model(files, device, "fp32")
    spec = loaded.spec
    train, dev = load_folder(images, captions, spec, work, seed)
    statistics = Statistics(mean=spec.mean, std=spec.std)
    config = FitConfig(
        sides=(spec.image_size,) * epochs,
        batch=batch,
        peak_rate=rate,
        smallest_crop=0.7,
        ema=0.99,
        eval_side=spec.image_size,
        eval_every=1,
        keep_best=True,
        seed=seed,
    )
    before = evaluate(loaded.model, loaded.tokenizer, dev, spec.image_size, statistics, loaded.device)
    state = fit(loaded.model, loaded.tokenizer, config, train, dev, work, statistics=statistics, device=loaded.device)
    loaded.model.load_state_dict(state)
    after = evaluate(loaded.model, loaded.tokenizer, dev, spec.image_size, statistics, loaded.device)
    write_folder(files, loaded, output)
    for name, old, new in (("text to image", before[0], after[0]), ("image to text", before[1], after[1])):
        print(f"{name} R@1/5/10 on {len(dev.captions)} held-out pictures: "
              f"{old.r1:.3f}/{old.r5:.3f}/{old.r10:.3f} before, {new.r1:.3f}/{new.r5:.3f}/{new.r10:.3f} after")  # fmt: skip
    print(f"use it with: --model local-dir:{output}")


def load_folder(
    images: Path, captions: Path, spec: ModelSpec, work: Path, seed: int
) -> tuple[CaptionedImages, CaptionedImages]:
    """Training and held-out images with their captions. Pixels lie in a mapped file in `work`, not in memory.

    Images that are missing or damaged are counted on standard error and left out; `DataError` when too few are left.
    """
    suffix = captions.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{captions}: captions must be one of {', '.join(sorted(TABLE_SUFFIXES))}")
    texts: dict[str, list[str]] = {}
    try:
        for name, caption in caption_rows(decode_text(read_bytes(str(captions))), suffix):
            texts.setdefault(name, []).append(caption)
    except MediaError as error:
        raise DataError(f"{captions}: {error.reason}") from error
    side = round(spec.image_size * MARGIN)
    work.mkdir(parents=True, exist_ok=True)
    pixels = np.lib.format.open_memmap(work / "pixels.npy", "w+", np.uint8, (max(1, len(texts)), side, side, 3))
    usable: list[tuple[str, ...]] = []
    for name, many in texts.items():
        try:
            rgb = decode_image(read_bytes(str(images / name)), side).rgb
        except MediaError as error:
            print(f"left out: {name}: {error.reason}", file=sys.stderr)
            continue
        pixels[len(usable)] = _square(rgb, side, spec.resize_mode)
        usable.append(tuple(many))
    if len(usable) < 4:
        raise DataError(f"{captions}: {len(usable)} of {len(texts)} pictures can be used; at least 4 are needed")
    order = np.random.default_rng(seed).permutation(len(usable))
    held = max(1, len(usable) // 10)
    return _part(pixels, usable, np.sort(order[held:])), _part(pixels, usable, np.sort(order[:held]))


def _part(pixels: NDArray[np.uint8], captions: Sequence[tuple[str, ...]], rows: NDArray[np.int64]) -> CaptionedImages:
    return CaptionedImages(images=pixels, captions=tuple(captions[row] for row in rows), rows=rows)


def _square(rgb: Image.Image, side: int, mode: str) -> NDArray[np.uint8]:
    """The square that the model would see, a little larger: the middle of the image, or all of it where it squashes."""
    if mode == "shortest":
        edge = min(rgb.size)
        left, top = (rgb.width - edge) // 2, (rgb.height - edge) // 2
        rgb = rgb.crop((left, top, left + edge, top + edge))
    return np.asarray(rgb.resize((side, side), Image.Resampling.BICUBIC), np.uint8)


def write_folder(files: ModelFiles, loaded: LoadedModel, output: Path) -> None:
    """The model in the format that it came in: `mini`'s own, or open_clip's folder with its configuration."""
    output.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in loaded.model.state_dict().items()}
    if files.architecture == "ConvCoCa":
        folder = files.folder or files.weights.parent
        shutil.copyfile(folder / "config.json", output / "config.json")
        loaded.tokenizer.save(output)
        save_file(state, output / "model.safetensors")
        return
    if files.folder is not None:
        for file in files.folder.iterdir():
            if file.suffix in (".json", ".txt", ".model"):
                shutil.copyfile(file, output / file.name)
    else:
        import open_clip

        spec = loaded.spec
        pixels = {"size": spec.image_size, "mean": spec.mean, "std": spec.std,
                  "interpolation": spec.interpolation, "resize_mode": spec.resize_mode}  # fmt: skip
        config = {"model_cfg": open_clip.get_model_config(files.architecture), "preprocess_cfg": pixels}
        (output / "open_clip_config.json").write_text(json.dumps(config, indent=1), "utf-8")
    save_file(state, output / "open_clip_model.safetensors")


if __name__ == "__main__":
    raise SystemExit(main())
