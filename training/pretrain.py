"""Stage one: the image tower learns to name the classes of a labelled set, at growing resolution.

Classification is the cheapest way to a useful small image tower on a CPU: the loss needs no large batch, and small
images carry it far. Resolution grows over the run (Touvron et al., *Fixing the train-test resolution discrepancy*,
2019), so the first epochs cost a quarter of the last.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from retrieval.models.convcoca import ConvCoCaConfig, ConvTower
from training.checkpoint import Diverged, load_checkpoint, save_checkpoint
from training.data import LabelledImages, augment, normalise
from training.machine import half_products


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """`sides` gives the training resolution of each epoch, so its length is the number of epochs."""

    sides: tuple[int, ...] = (48,) * 10 + (64,) * 8
    batch: int = 256
    peak_rate: float = 0.25
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    seed: int = 20
    save_every: int = 200


class Classifier(nn.Module):
    """The image tower with a linear head over its mean token."""

    def __init__(self, config: ConvCoCaConfig, classes: int) -> None:
        super().__init__()
        self.tower = ConvTower(config)
        self.head = nn.Linear(config.token_width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(n, 3, s, s)` to logits `(n, classes)`."""
        pooled = self.tower.tokens(images).mean(dim=1)
        logits: torch.Tensor = self.head(F.dropout(pooled, 0.1, self.training))
        return logits


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate at `step`: a linear rise over the first tenth, then a cosine to nothing."""
    warm = max(1, total // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def accuracy(model: Classifier, data: LabelledImages, side: int, device: str = "cpu") -> float:
    """Top-1 share on whole images at `side` pixels."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data.labels), 250):
            with half_products(device):
                logits = model(normalise(data.images[start : start + 250], side, device=device))
            right += int((logits.argmax(1).cpu().numpy() == data.labels[start : start + 250]).sum())
    model.train()
    return right / len(data.labels)


def pretrain(
    model_config: ConvCoCaConfig,
    config: PretrainConfig,
    train: LabelledImages,
    dev: LabelledImages,
    work: Path,
    device: str = "cpu",
) -> Classifier:
    """Train the tower, resuming from `work/pretrain.safetensors` when it is there. Logs to `work/log.jsonl`.

    Raises `Diverged` when the loss stops being finite; the last checkpoint is kept.
    """
    torch.manual_seed(config.seed)
    model = Classifier(model_config, len(train.names)).to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=config.peak_rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    shape = {name: getattr(model_config, name) for name in ("stem", "blocks", "token_width", "embed_dim")}
    settings: dict[str, object] = json.loads(json.dumps({**shape, **asdict(config)}))
    file, log = work / "pretrain.safetensors", work / "log.jsonl"
    step = load_checkpoint(file, settings, model, optimiser) if file.exists() else 0
    per_epoch = len(train.labels) // config.batch
    total = per_epoch * len(config.sides)
    began, images_seen, mean_loss = time.monotonic(), 0, 0.0
    while step < total:
        epoch = step // per_epoch
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.labels))
        side = config.sides[epoch]
        for position in range(step - epoch * per_epoch, per_epoch):
            rows = np.sort(order[position * config.batch : (position + 1) * config.batch])
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step, total, config.peak_rate)
            torch.manual_seed(config.seed * 1_000_003 + step)
            with half_products(device):
                logits = model(augment(train.images[rows], side, rng, device=device))
            labels = torch.from_numpy(train.labels[rows]).to(device)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.smoothing)
            if not torch.isfinite(loss):
                raise Diverged(f"the loss is {loss.item()} at step {step}; the last good checkpoint is {file}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            step, images_seen, mean_loss = step + 1, images_seen + len(rows), 0.98 * mean_loss + 0.02 * loss.item()
            if step % config.save_every == 0:
                save_checkpoint(file, settings, step, model, optimiser)
                rate = images_seen / (time.monotonic() - began)
                print(f"pretrain step {step}/{total} side {side} loss {mean_loss:.3f} {rate:.0f} images/s", flush=True)
        save_checkpoint(file, settings, step, model, optimiser)
        top1 = accuracy(model, dev, 64, device)
        with log.open("a") as out:
            entry = {"stage": "pretrain", "epoch": epoch + 1, "loss": round(mean_loss, 4), "top1": round(top1, 4)}
            out.write(json.dumps(entry) + "\n")
        print(f"pretrain epoch {epoch + 1}/{len(config.sides)}: top-1 {top1:.3f}", flush=True)
    return model
