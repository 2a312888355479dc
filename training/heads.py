"""Train the matching heads of a CoCa whose towers stay as they are: `python -m training.heads --help`.

A head sees each text with its own picture, with another that is like it, and the picture with another text that is like
it, drawn by the towers' own likeness (Li et al., *ALBEF*, 2021), and learns to tell which belong together. Image tokens
are computed once, for a few augmented views of each picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.heads import new_heads
from retrieval.models import LoadedModel, load_model
from retrieval.weights import MINI
from training.data import CaptionedImages, Statistics, augment, load_captioned
from training.machine import half_products, keep_freed_memory
from training.pretrain import one_cycle

VIEWS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and write `heads.safetensors` into the model's folder."""
    parser = argparse.ArgumentParser(prog="python -m training.heads", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=MINI, help="the model's folder")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    loaded = load_model(given.model, given.device, "fp32")
    train = load_captioned(given.parquet, round(1.25 * loaded.spec.image_size))
    heads = train_heads(loaded, train, epochs=given.epochs)
    state = {name: value.half().cpu().contiguous() for name, value in heads.state_dict().items()}
    save_file(state, given.output / "heads.safetensors")
    return 0


def train_heads(
    loaded: LoadedModel, train: CaptionedImages, *, epochs: int, batch: int = 128, rate: float = 1e-3, seed: int = 5
) -> nn.ModuleDict:
    """Both heads, trained on the pictures and captions of `train`."""
    torch.manual_seed(seed)
    model, device = loaded.model, loaded.device
    views, embeddings = _views(loaded, train, seed)
    ids = [torch.from_numpy(loaded.tokenizer.encode(captions)) for captions in train.captions]
    heads = new_heads(views[0].shape[-1]).to(device).train()
    optimiser = torch.optim.AdamW(heads.parameters(), lr=rate, weight_decay=0.05)
    count = len(train.captions)
    batch = min(batch, count)
    total, step, began = epochs * (count // batch), 0, time.monotonic()
    for epoch in range(epochs):
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(count)
        losses = dict.fromkeys(heads, 0.0)
        for start in range(0, count - batch + 1, batch):
            rows = order[start : start + batch]
            view = int(rng.integers(len(views)))
            text = torch.stack([ids[row][int(rng.integers(len(ids[row])))] for row in rows]).to(device)
            with torch.no_grad(), half_products(device):
                latent, states = model._encode_text(text)
                alike = latent.float() @ embeddings[view][rows].T * model.logit_scale.exp()
                tokens = views[view][rows].to(device)
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step, total, rate)
            draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
            pairs = draw_pairs(alike, draw)
            optimiser.zero_grad(set_to_none=True)
            for name, head in heads.items():
                with half_products(device):
                    loss = match_loss(head, states.float(), tokens.float(), text != loaded.tokenizer.rules.pad, pairs)
                torch.autograd.backward(loss)
                losses[name] += loss.item() * batch / count
            nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimiser.step()
            step += 1
        told: dict[str, Any] = {name: round(value, 4) for name, value in losses.items()}
        print(json.dumps({"epoch": epoch + 1, **told, "seconds": round(time.monotonic() - began)}), flush=True)
    return heads.eval()


def _views(loaded: LoadedModel, train: CaptionedImages, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Image tokens `(n, t, w) float16` and unit embeddings `(n, d) float32` of each augmented view."""
    spec, views, embeddings = loaded.spec, [], []
    statistics = Statistics(mean=spec.mean, std=spec.std)
    for view in range(VIEWS):
        tokens, latents = [], []
        for start in range(0, len(train.captions), 100):
            rows = np.arange(start, min(start + 100, len(train.captions)))
            rng = torch.Generator().manual_seed(seed * 7919 + view * 104_729 + start)
            how = {"smallest": 0.6, "erase": 0.0, "statistics": statistics, "device": loaded.device}
            pixels = augment(train.take(rows), spec.image_size, rng, **how)  # type: ignore[arg-type]
            with torch.inference_mode(), half_products(loaded.device):
                latent, made = loaded.model._encode_image(pixels)
            tokens.append(made.half().cpu())
            latents.append(latent.float())
        views.append(torch.cat(tokens).clone())
        embeddings.append(torch.cat(latents).clone())
    return views, embeddings


def draw_pairs(alike: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each text a wrong image and for each image a wrong text, `(n,)` each, likelier the more alike they are.

    `alike (n, n)` are the towers' logits, texts by images.
    """
    wrong = 1 - torch.eye(len(alike))
    by_text, by_image = alike.cpu().softmax(-1) * wrong, alike.cpu().T.softmax(-1) * wrong
    image = torch.multinomial(by_text + 1e-9 * wrong, 1, generator=rng)[:, 0]
    text = torch.multinomial(by_image + 1e-9 * wrong, 1, generator=rng)[:, 0]
    return image.to(alike.device), text.to(alike.device)


def match_loss(head: nn.Module, states: Tensor, tokens: Tensor, real: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Binary cross-entropy of the true pairs against the wrong ones, which are twice as many."""
    image, text = pairs
    right = head(states, tokens, real).float()
    wrong = torch.cat([head(states, tokens[image], real), head(states[text], tokens, real[text])]).float()
    return 0.5 * (
        F.binary_cross_entropy_with_logits(right, torch.ones_like(right))
        + F.binary_cross_entropy_with_logits(wrong, torch.zeros_like(wrong))
    )


if __name__ == "__main__":
    raise SystemExit(main())
