"""What each part of the recipe of `mini` is worth, with both towers as they come: `python -m training.ablation --help`.

Only the two projections learn, on features that are computed once, so that a row takes seconds and not an hour. What is better
here is the start of what is better when the towers learn as well; `training.mini` says how good that becomes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.metrics import recall_both_ways
from retrieval.models.convcoca import Projection
from retrieval.models.efficientnet import EfficientNet, EfficientNetConfig
from training.data import held_out, load_captioned, load_labelled, normalise
from training.feed import TEMPLATES, with_article
from training.fit import one_cycle
from training.machine import half_products, keep_freed_memory
from training.mini import SIDE, labelled_files
from training.starts import ImageNetStart, image_start, prototypes
from training.teacher import ask_teacher

RESOLUTIONS = (160, 192, 224)
_EPOCHS, _BATCH, _RATE, _HEAT = 30, 512, 1e-3, 0.06


def features(start: ImageNetStart, images: np.ndarray, side: int, work: Path, name: str) -> Tensor:
    """What the image tower sees, `(n, width)`, kept in `work`."""
    file = work / f"features-{name}-{side}.npy"
    if file.exists():
        return torch.from_numpy(np.load(file, allow_pickle=False))
    trunk = EfficientNet(EfficientNetConfig(), folded=False).eval()
    trunk.load_state_dict(start.state)
    with torch.inference_mode(), half_products("cpu"):
        rows = torch.cat(
            [trunk(normalise(images[at : at + 64], side)).float().mean((2, 3)) for at in range(0, len(images), 64)]
        )
    np.save(file, rows.numpy(), allow_pickle=False)
    return rows.clone()


def learnt(images: Tensor, texts: list[Tensor], classes: tuple[Tensor, Tensor] | None, soft: float) -> nn.ModuleDict:
    """Both projections, from image features `(n, w)`, the text features of each, and pairs of class features."""
    torch.manual_seed(1)
    heads = nn.ModuleDict({"image": Projection(images.shape[1], 512, 256), "text": Projection(384, 512, 256)})
    scale = nn.Parameter(torch.tensor(2.66))
    optimiser = torch.optim.AdamW([*heads.parameters(), scale], lr=_RATE, weight_decay=0.05)
    per_epoch = len(images) // _BATCH
    rng = np.random.default_rng(2)
    for step in range(_EPOCHS * per_epoch):
        rows = rng.choice(len(images), _BATCH, replace=False)
        chosen = torch.stack([texts[row][int(rng.integers(len(texts[row])))] for row in rows])
        pairs = [(images[torch.from_numpy(rows)], chosen)]
        if classes is not None:
            some = torch.from_numpy(rng.choice(len(classes[0]), 128, replace=False))
            pairs.append((classes[0][some], classes[1][some]))
        loss = torch.zeros(())
        for seen, said in pairs:
            ours = F.normalize(heads["image"](F.dropout(seen, 0.2)), dim=-1)
            theirs = F.normalize(heads["text"](F.dropout(said, 0.1)), dim=-1)
            logits = ours @ theirs.T * scale.exp()
            goal = (1 - soft) * torch.eye(len(seen)) + soft * (said @ said.T / _HEAT).softmax(-1)
            loss = loss + (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, _EPOCHS * per_epoch, _RATE)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    return heads.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line of JSON for each variant."""
    parser = argparse.ArgumentParser(prog="python -m training.ablation", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the tables of captioned and labelled images"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder where features are kept")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    given.work.mkdir(parents=True, exist_ok=True)
    start = image_start()
    sets = {name: load_captioned(given.data / f"{name}.parquet", SIDE) for name in ("flickr8k-train", "coco-part-0")}
    dev = load_captioned(given.data / "flickr8k-dev.parquet", SIDE)
    labelled, held = load_labelled(labelled_files(given.data), SIDE, held_out)
    label_texts = [TEMPLATES[0].format(with_article(name)) for name in labelled.names]
    class_texts = [TEMPLATES[0].format(with_article(name)) for name in start.names]
    said = {name: ask_teacher(data.captions, [], given.work).captions for name, data in sets.items()}
    dev_said = ask_teacher(dev.captions, [*label_texts, *class_texts], given.work)
    label_features = torch.from_numpy(dev_said.classes[: len(label_texts)])
    class_features = torch.from_numpy(dev_said.classes[len(label_texts) :])

    def measure(
        what: str, side: int, *, coco: bool = True, labels: bool = True, classes: bool = True, soft: float = 0.3
    ) -> None:
        began = time.monotonic()
        names = ["flickr8k-train", *(["coco-part-0"] if coco else [])]
        images = torch.cat([features(start, sets[name].images, side, given.work, name) for name in names])
        texts = [torch.from_numpy(rows) for name in names for rows in said[name]]
        if labels:
            photos = features(start, labelled.images, side, given.work, "labelled")
            images = torch.cat([images, photos])
            texts += [label_features[number][None] for number in labelled.labels.tolist()]
        made = (prototypes(start, images[:512]), class_features) if classes else None
        began_learning = time.monotonic()
        heads = learnt(images, texts, made, soft)
        seconds = time.monotonic() - began_learning
        with torch.inference_mode():
            seen = F.normalize(heads["image"](features(start, dev.images, side, given.work, "dev")), dim=-1)
            captions = F.normalize(heads["text"](torch.from_numpy(np.concatenate(dev_said.captions))), dim=-1)
            owner = np.repeat(np.arange(len(dev.captions)), [len(many) for many in dev.captions])
            to_image, to_text = recall_both_ways(seen.numpy(), captions.numpy(), owner)
            photos = F.normalize(heads["image"](features(start, held.images, side, given.work, "held")), dim=-1)
            numbers = np.unique(held.labels)
            named = F.normalize(heads["text"](label_features[torch.from_numpy(numbers)]), dim=-1)
            top1 = float((numbers[(photos @ named.T).argmax(1).numpy()] == held.labels).mean())
        print(
            json.dumps(
                {"what": what, "text_to_image": [round(100 * r, 1) for r in (to_image.r1, to_image.r5, to_image.r10)],
                 "image_to_text": [round(100 * r, 1) for r in (to_text.r1, to_text.r5, to_text.r10)],
                 "labels_top1": round(100 * top1, 1), "seconds": round(seconds, 1),
                 "with_features": round(time.monotonic() - began, 1)}
            ),
            flush=True,
        )  # fmt: skip

    for side in RESOLUTIONS:
        measure(f"{side} pixels", side)
    measure("192 pixels, without COCO", 192, coco=False)
    measure("192 pixels, without labelled photos", 192, labels=False)
    measure("192 pixels, without prototypes", 192, classes=False)
    measure("192 pixels, neither", 192, labels=False, classes=False)
    measure("192 pixels, hard targets", 192, soft=0.0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
