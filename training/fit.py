"""Training and fine-tuning: the towers learn one space, and a decoder, where there is one, learns to caption.

The loss is that of CoCa (Yu et al., 2022): the symmetric cross-entropy over a batch (Radford et al., CLIP, 2021) plus
the cross-entropy of each next caption token given the image. With a teacher, the targets of the first are softened by
how alike the captions of a batch are, since several images often deserve the same words, and both towers predict the
teacher's embedding through a linear head each, which training drops afterwards. `training.feed` says what a batch holds.
"""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.metrics import Recall, recall_both_ways
from retrieval.models.convcoca import ConvCoCa
from retrieval.models.tokens import TextTokenizer
from training.checkpoint import Diverged, load_checkpoint, save_checkpoint
from training.data import MINI, CaptionedImages, Statistics, normalise
from training.feed import NOTHING, Batch, Beside, Feed
from training.machine import half_products
from training.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """`sides` gives the resolution of each epoch, and `frozen` how many parts of the image tower it leaves as they are. Of the
    `batch` images, `labelled` are class images; `prototypes` of classes and `texts` without an image come on top.

    `shares` are the learning rates of parts of the model, by the beginning of their parameters' names, as shares of
    `peak_rate`. `soft` is the share of the contrastive
    target that the teacher spreads over the batch, at temperature `teacher_heat`; `distil` weighs the two heads that
    predict the teacher's embedding, `caption` the decoder's loss. `dropout` acts on both embeddings, `decoder_dropout`
    on what the decoder is given. `ema` is the decay of the moving average of the weights; with `keep_best` the average that
    did best on held-out recall is the result, else the last one.
    """

    sides: tuple[int, ...]
    batch: int
    labelled: int = 0
    prototypes: int = 0
    texts: int = 0
    frozen: tuple[int, ...] = ()
    peak_rate: float
    shares: tuple[tuple[str, float], ...] = ()
    weight_decay: float = 0.1
    smallest_crop: float = 0.5
    soft: float = 0.0
    teacher_heat: float = 0.06
    distil: float = 0.0
    caption: float = 1.0
    smoothing: float = 0.1
    dropout: float = 0.0
    decoder_dropout: float = 0.0
    ema: float = 0.995
    eval_side: int
    eval_every: int = 5
    keep_best: bool = False
    seed: int = 21


class TrainedModel(nn.Module):
    """The model in training, with the heads that predict the teacher's embeddings and are dropped at the end."""

    def __init__(self, model: Any, teacher_dim: int) -> None:
        super().__init__()
        self.model = model
        self.image_head = nn.Linear(model.embed_dim, teacher_dim) if teacher_dim else None
        self.text_head = nn.Linear(model.embed_dim, teacher_dim) if teacher_dim else None


def fit(
    model: Any,
    tokenizer: TextTokenizer,
    config: FitConfig,
    train: CaptionedImages,
    dev: CaptionedImages,
    work: Path,
    *,
    beside: Beside = NOTHING,
    teacher: Teacher | None = None,
    statistics: Statistics = MINI,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Train a CLIP or CoCa and return the state of its weights' moving average.

    Resumes from `work/fit.safetensors`, logs to `work/log.jsonl`, and keeps the result so far in `work/result.safetensors`.
    Raises `Diverged` on a loss that is not finite; the last checkpoint is kept.
    """
    torch.manual_seed(config.seed)
    feed = Feed(config, tokenizer, train, beside, teacher, statistics, device, isinstance(model, ConvCoCa))
    whole = TrainedModel(model, teacher.dim if teacher is not None else 0)
    whole.to(device).to(memory_format=torch.channels_last)
    average = copy.deepcopy(whole.model).requires_grad_(False)
    both = nn.ModuleDict({"whole": whole, "average": average})
    optimiser = _optimiser(whole, config)
    settings: dict[str, object] = json.loads(json.dumps(asdict(config)))
    file, result, log = work / "fit.safetensors", work / "result.safetensors", work / "log.jsonl"
    step = load_checkpoint(file, settings, both, optimiser) if file.exists() else 0
    total = feed.per_epoch * len(config.sides)
    best, mean_loss, began = _best_so_far(log if step else None), 0.0, time.monotonic()
    while step < total:
        whole.train()
        if config.frozen:
            model.visual.trunk.frozen = config.frozen[step // feed.per_epoch]
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, total, config.peak_rate) * group["share"]
        batch = feed.draw(step)
        # Dropout, too, follows from the step, so that a resumed run is the run that was not stopped.
        torch.manual_seed(config.seed * 1_000_003 + step)
        with half_products(device):
            parts = _losses(whole, batch, config)
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} at step {step}; the last good checkpoint is {file}")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(whole.parameters(), 5.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100.0)))
            _follow(average, whole.model, min(config.ema, (1 + step) / (10 + step)))
        mean_loss = float(loss.item()) if not mean_loss else 0.95 * mean_loss + 0.05 * float(loss.item())
        if step % feed.per_epoch:
            continue
        epoch = step // feed.per_epoch
        save_checkpoint(file, settings, step, both, optimiser)
        entry = {"stage": "fit", "epoch": epoch, "side": config.sides[epoch - 1], "loss": round(mean_loss, 4),
                 **{name: round(float(value.item()), 4) for name, value in parts.items()},
                 "seconds": round(time.monotonic() - began)}  # fmt: skip
        if epoch % config.eval_every == 0 or step >= total:
            to_image, to_text = evaluate(average, tokenizer, dev, config.eval_side, statistics, device)
            entry["text_to_image"] = [to_image.r1, to_image.r5, to_image.r10]
            entry["image_to_text"] = [to_text.r1, to_text.r5, to_text.r10]
            score = to_image.r10 + to_text.r10
            if score >= best or not config.keep_best:
                best = score
                state = {name: value.cpu().contiguous() for name, value in average.state_dict().items()}
                save_file(state, result)
        with log.open("a") as out:
            out.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)
    from safetensors.torch import load_file

    return load_file(result)


def _optimiser(whole: TrainedModel, config: FitConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only, and each part of the model at its own share of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in whole.named_parameters():
        share = next((share for part, share in config.shares if name.startswith(f"model.{part}")), 1.0)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": many, "weight_decay": decay, "share": share} for (share, decay), many in groups.items()],
        lr=config.peak_rate,
        betas=(0.9, 0.98),
    )


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate at `step`: a linear rise over the first tenth, then a cosine to nothing."""
    warm = max(1, total // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _follow(average: nn.Module, current: nn.Module, keep: float) -> None:
    for slow, fast in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - keep)
        else:
            slow.copy_(fast)


def _best_so_far(log: Path | None) -> float:
    if log is None or not log.exists():
        return 0.0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return max((e["text_to_image"][2] + e["image_to_text"][2] for e in entries if "text_to_image" in e), default=0.0)


def _losses(whole: TrainedModel, batch: Batch, config: FitConfig) -> dict[str, Tensor]:
    model = whole.model
    decoder = getattr(model, "text_decoder", None)
    if decoder is None:
        image_raw, text_raw = model.encode_image(batch.pixels), model.encode_text(batch.ids)
    else:
        image_raw, image_tokens = model._encode_image(batch.pixels, normalize=False)
        text_raw, token_states = model._encode_text(batch.ids, normalize=False)
    image_raw, text_raw = image_raw.float(), text_raw.float()
    parts: dict[str, Tensor] = {}
    heads, goals = (whole.image_head, whole.text_head), (batch.image_goal, batch.text_goal)
    if heads[0] is not None and heads[1] is not None and goals[0] is not None and goals[1] is not None:
        image_agreement = F.cosine_similarity(heads[0](image_raw).float(), goals[0])
        text_agreement = F.cosine_similarity(heads[1](text_raw).float(), goals[1])
        parts["distil"] = config.distil * (2 - image_agreement.mean() - text_agreement.mean())
    parts["contrast"] = _contrast(model, image_raw, text_raw, batch.image_goal, batch.text_goal, config)
    if batch.prototypes is not None and batch.prototype_ids is not None:
        seen = model.visual.proj(batch.prototypes).float()
        named = model.encode_text(batch.prototype_ids, normalize=False).float()
        parts["classes"] = _contrast(model, seen, named, batch.prototype_goal, batch.prototype_goal, config)
    if decoder is not None and config.caption:
        rows = slice(0, batch.captioned)
        states = F.dropout(token_states[rows, :-1], config.decoder_dropout)
        parts["caption"] = config.caption * caption_loss(
            decoder,
            F.dropout1d(image_tokens[rows], config.decoder_dropout),
            states,
            batch.ids[rows, 1:],
            config.smoothing,
        )
        if batch.text_ids is not None:
            # Texts by themselves go with the null image that re-ranking compares with.
            null = model._encode_image(torch.zeros_like(batch.pixels[:1]))[1]
            states = F.dropout(model.text.states(batch.text_ids)[:, :-1], config.decoder_dropout)
            parts["language"] = config.caption * caption_loss(
                decoder, null.expand(len(states), -1, -1), states, batch.text_ids[:, 1:], config.smoothing
            )
    return parts


def _contrast(
    model: Any, images: Tensor, texts: Tensor, image_goal: Tensor | None, text_goal: Tensor | None, config: FitConfig
) -> Tensor:
    """The symmetric cross-entropy of pairs `(n, d)`, not normalised yet, softened by how alike the teacher finds them."""
    images = F.normalize(F.dropout(images, config.dropout), dim=-1)
    texts = F.normalize(F.dropout(texts, config.dropout), dim=-1)
    logits = images @ texts.T * model.logit_scale.exp()
    by_image = by_text = torch.eye(len(logits), device=logits.device)
    if image_goal is not None and text_goal is not None:
        alike = image_goal @ text_goal.T / config.teacher_heat
        by_image = (1 - config.soft) * by_image + config.soft * alike.softmax(-1)
        by_text = (1 - config.soft) * by_text + config.soft * alike.T.softmax(-1)
    return (F.cross_entropy(logits, by_image) + F.cross_entropy(logits.T, by_text)) / 2


def caption_loss(decoder: Any, image_tokens: Tensor, states: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of the next token, without padding (id 0) and what the decoder does not know.

    `image_tokens (n, t, w)`, `states (n, length - 1, w)`, `labels (n, length - 1)`. The vocabulary's logits are made for
    real tokens only: they are most of the decoder's cost, and almost half of the positions are padding.
    """
    length = states.shape[1]
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        states = block(states, attn_mask=decoder.attn_mask[:length, :length])
        states = cross(states, k_x=image_tokens, v_x=image_tokens)
    real = (labels != 0) & (labels < decoder.text_projection.shape[1])
    logits = decoder.ln_final(states[real]) @ decoder.text_projection
    return F.cross_entropy(logits.float(), labels[real], label_smoothing=smoothing)


def evaluate(
    model: Any,
    tokenizer: TextTokenizer,
    data: CaptionedImages,
    side: int,
    statistics: Statistics = MINI,
    device: str = "cpu",
) -> tuple[Recall, Recall]:
    """Text-to-image and image-to-text recall on whole images at `side` pixels."""
    was_training = model.training
    model.eval()
    captions = [caption for many in data.captions for caption in many]
    with torch.no_grad(), half_products(device):
        images = [
            model.encode_image(normalise(data.take(numbers), side, statistics, device), normalize=True)
            for numbers in np.split(np.arange(len(data.captions)), range(100, len(data.captions), 100))
        ]
        texts = [
            model.encode_text(
                torch.from_numpy(tokenizer.encode(captions[start : start + 250])).to(device), normalize=True
            )
            for start in range(0, len(captions), 250)
        ]
    model.train(was_training)
    owner = np.repeat(np.arange(len(data.captions)), [len(many) for many in data.captions])
    return recall_both_ways(torch.cat(images).float().cpu().numpy(), torch.cat(texts).float().cpu().numpy(), owner)
