"""The whole recipe of the embedded model, from data to weights: `python -m training.mini --data DIR --work DIR`.

Stage one teaches the image tower to name classes (`training.pretrain`), stage two teaches everything together on
captioned images (`training.fit`). Run it again with the same folders to resume; `--install` then writes the model, and
fits what re-ranking needs (`training.reader`, `training.heads`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from retrieval.errors import MmsearchError
from retrieval.models.convcoca import ConvCoCa, ConvCoCaConfig
from retrieval.models.loading import choose_device
from retrieval.models.weights import MINI
from training import heads, reader
from training.checkpoint import CheckpointError, Diverged
from training.data import DataError, Statistics, load_captioned, load_labelled
from training.fit import FitConfig, class_phrases, fit
from training.machine import keep_freed_memory
from training.plot import plot_log
from training.pretrain import PretrainConfig, pretrain
from training.teacher import ask_teacher
from training.vocabulary import train_tokenizer

MODEL = ConvCoCaConfig()
PRETRAIN = PretrainConfig()
FIT = FitConfig(
    sides=(96,) * 44 + (128,) * 8,
    batch=256,
    labelled=24,
    peak_rate=1.2e-3,
    tower_share=0.4,
    smallest_crop=0.45,
    soft=0.4,
    distil=1.5,
    caption=1.0,
    dropout=0.1,
    decoder_dropout=0.15,
    eval_side=MODEL.image_size,
)
# How many of the development split teach the fusion heads; the others judge them.
HEAD_IMAGES = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and with `--install` write the result where mmsearch finds it."""
    parser = argparse.ArgumentParser(prog="python -m training.mini", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the Flickr8k and Tiny-ImageNet tables")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, the log and its plot")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--install", type=Path, nargs="?", const=MINI, help="write the model there, or into the package"
    )
    given = parser.parse_args(arguments)
    try:
        run(given.data, given.work, choose_device(given.device), given.install)
    except (DataError, CheckpointError, Diverged, MmsearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(data: Path, work: Path, device: str, install: Path | None) -> None:
    """Both stages, resuming what is in `work`. Raises `DataError`, `CheckpointError` or `Diverged`."""
    keep_freed_memory()
    work.mkdir(parents=True, exist_ok=True)
    labelled = load_labelled([data / f"tiny-imagenet-train-{part}.parquet" for part in range(3)], 64)
    held_out = load_labelled([data / "tiny-imagenet-val.parquet"], 64, labelled.names)
    train = load_captioned(data / "flickr8k-train.parquet", 160)
    dev = load_captioned(data / "flickr8k-dev.parquet", 176)
    classifier = pretrain(MODEL, PRETRAIN, labelled, held_out, work, device)
    tokenizer = train_tokenizer(
        (caption for many in train.captions for caption in many), MODEL.vocab_size, MODEL.context_length
    )
    teacher = ask_teacher(train.captions, class_phrases(labelled), work)
    torch.manual_seed(FIT.seed)
    model = ConvCoCa(MODEL)
    model.visual.trunk.load_state_dict(classifier.tower.trunk.state_dict())
    best = fit(model, tokenizer, FIT, train, dev, work, extra=labelled, teacher=teacher, device=device)
    plot_log(work / "log.jsonl", work / "learning-curve.png")
    if install is not None:
        print(f"{write_model(install, best)}  {install / 'model.safetensors'}")
        tokenizer.save(install)
        model_name = "mini" if install == MINI else f"local-dir:{install}"
        asked = ["--parquet", str(data / "flickr8k-dev.parquet"), "--model", model_name, "--output", str(install)]
        reader.main(asked)
        heads.main([*asked, "--images", str(HEAD_IMAGES)])


def write_model(folder: Path, state: dict[str, Tensor]) -> str:
    """Write configuration and weights in half precision; returns the SHA-256 of the weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {**asdict(Statistics()), "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model": asdict(MODEL), "preprocessing": pixels}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    file = folder / "model.safetensors"
    save_file({name: value.half() if value.is_floating_point() else value for name, value in state.items()}, file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
