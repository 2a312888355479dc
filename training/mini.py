"""The whole recipe of the embedded model, from data to weights: `python -m training.mini --data DIR --work DIR`.

The towers start from weights of others (`training.starts`), and everything learns together on captioned images, class images,
prototypes of classes and captions alone (`training.fit`): first without the image tower, then with its later stages. Run it
again with the same folders to resume; `--install` then writes the model, and fits what re-ranking needs (`training.reader`,
`training.heads`).
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
from retrieval.models.efficientnet import EfficientNet, folded_state
from retrieval.models.loading import choose_device
from retrieval.models.minilm import MiniLMConfig
from retrieval.models.tokens import TextTokenizer
from retrieval.models.weights import MINI
from training import heads, reader
from training.checkpoint import CheckpointError, Diverged
from training.data import (
    CaptionedImages,
    DataError,
    Statistics,
    held_out,
    joined,
    load_captioned,
    load_labelled,
    normalise,
    read_columns,
)
from training.feed import Beside, Prototypes
from training.fit import FitConfig, fit
from training.machine import half_products, keep_freed_memory
from training.plot import plot_log
from training.starts import ImageNetStart, image_start, prototypes, teacher_folder, text_start
from training.teacher import ask_teacher
from training.vocabulary import prune_tokenizer

MODEL = ConvCoCaConfig(sentence=MiniLMConfig(vocab_size=25_600), reading_layers=1)
# Stored pictures are a little smaller than what the tower sees.
SIDE = 176
FIT = FitConfig(
    sides=(MODEL.image_size,) * 16,
    frozen=(9,) * 6 + (4,) * 10,
    batch=160,
    labelled=32,
    prototypes=48,
    texts=32,
    peak_rate=8e-4,
    shares=(("visual.trunk.", 0.25), ("text.sentence.", 0.1)),
    weight_decay=0.05,
    smallest_crop=0.45,
    soft=0.3,
    distil=1.0,
    caption=1.0,
    dropout=0.1,
    decoder_dropout=0.1,
    ema=0.99,
    eval_side=MODEL.image_size,
    eval_every=2,
)
# How many of the development split teach the fusion heads; the others judge them.
HEAD_IMAGES = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and with `--install` write the result where mmsearch finds it."""
    parser = argparse.ArgumentParser(prog="python -m training.mini", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the tables of captioned and labelled images"
    )
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
    """Train, resuming what is in `work`. Raises `DataError`, `CheckpointError` or `Diverged`."""
    keep_freed_memory()
    work.mkdir(parents=True, exist_ok=True)
    train = joined([load_captioned(data / f"{name}.parquet", SIDE) for name in ("flickr8k-train", "coco-part-0")])
    dev = load_captioned(data / "flickr8k-dev.parquet", SIDE)
    labelled, _ = load_labelled(labelled_files(data), SIDE, held_out)
    columns = read_columns([data / "coco-captions-text.parquet"], ("captions",))
    texts = tuple(str(text) for many in columns["captions"] if isinstance(many, list) for text in many)
    captions = [caption for many in train.captions for caption in many]
    start = image_start()
    tokenizer, vocabulary = prune_tokenizer(
        teacher_folder() / "tokenizer.json", [*captions, *texts], [*labelled.names, *start.names],
        MODEL.sentence.vocab_size, MODEL.decoder_vocab, MODEL.sentence.context_length,
    )  # fmt: skip
    classes = Prototypes(features=prototypes(start, _features(start, train)), names=start.names)
    beside = Beside(labelled=labelled, prototypes=classes, texts=texts)
    teacher = ask_teacher(train.captions, beside.phrases(), work)
    torch.manual_seed(FIT.seed)
    model = ConvCoCa(MODEL, folded=False)
    model.visual.trunk.load_state_dict(start.state)
    model.text.sentence.load_state_dict(text_start(vocabulary, MODEL.sentence.context_length))
    best = fit(model, tokenizer, FIT, train, dev, work, beside=beside, teacher=teacher, device=device)
    plot_log(work / "log.jsonl", work / "learning-curve.png")
    if install is not None:
        write_installed(best, tokenizer, data, install)


def write_installed(state: dict[str, Tensor], tokenizer: TextTokenizer, data: Path, install: Path) -> None:
    """Write the model, and fit what a score means and what re-ranking needs."""
    print(f"{write_model(install, state)}  {install / 'model.safetensors'}")
    tokenizer.save(install)
    model_name = "mini" if install == MINI else f"local-dir:{install}"
    asked = ["--parquet", str(data / "flickr8k-dev.parquet"), "--model", model_name, "--output", str(install)]
    reader.main([*asked, "--labelled", *map(str, labelled_files(data))])
    heads.main([*asked, "--images", str(HEAD_IMAGES)])


def labelled_files(data: Path) -> list[Path]:
    """The tables of labelled photos in a folder."""
    return [data / f"labelled-photos-{part}.parquet" for part in range(2)]


def write_model(folder: Path, state: dict[str, Tensor]) -> str:
    """Write configuration and weights, folded and in half precision; returns the SHA-256 of the weights file."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {**asdict(Statistics()), "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model": asdict(MODEL), "preprocessing": pixels}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    file = folder / "model.safetensors"
    trunk = EfficientNet(MODEL.image, folded=False)
    prefix = "visual.trunk."
    trunk.load_state_dict({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})
    whole = {name: value for name, value in state.items() if not name.startswith(prefix)}
    whole |= {prefix + name: value for name, value in folded_state(trunk).items()}
    save_file({name: value.half().contiguous() for name, value in whole.items()}, file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _features(start: ImageNetStart, train: CaptionedImages) -> Tensor:
    """What the image tower that training starts from sees in some of the pictures, `(n, width)`."""
    trunk = EfficientNet(MODEL.image, folded=False).eval()
    trunk.load_state_dict(start.state)
    with torch.inference_mode(), half_products("cpu"):
        parts = [
            trunk(normalise(train.images[at : at + 64], MODEL.image_size)).float().mean((2, 3))
            for at in range(0, 512, 64)
        ]
    return torch.cat(parts).clone()


if __name__ == "__main__":
    raise SystemExit(main())
