"""Stage two, and fine-tuning: the towers learn one space, and a decoder, where there is one, learns to caption.

The loss is that of CoCa (Yu et al., 2022): the symmetric cross-entropy over a batch (Radford et al., CLIP, 2021) plus
the cross-entropy of each next caption token given the image. With a teacher, the targets of the first are softened by
how alike the captions of a batch are, since several images often deserve the same words, and both towers predict the
teacher's embedding through a linear head each, which training drops afterwards.
"""

from __future__ import annotations

import copy
import json
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
from retrieval.models.tokens import TextTokenizer
from training.checkpoint import Diverged, load_checkpoint, save_checkpoint
from training.data import MINI, CaptionedImages, LabelledImages, Statistics, augment, normalise
from training.machine import half_products
from training.pretrain import one_cycle
from training.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """`sides` gives the resolution of each epoch. `labelled` rows of each batch are class images.

    `tower_share` is the image tower's learning rate as a share of `peak_rate`. `soft` is the share of the contrastive
    target that the teacher spreads over the batch, at temperature `teacher_heat`; `distil` weighs the two heads that
    predict the teacher's embedding, `caption` the decoder's loss. `dropout` acts on both embeddings, `decoder_dropout`
    on what the decoder is given. `ema` is the decay of the moving average of the weights; with `keep_best` the average that
    did best on held-out recall is the result, else the last one.
    """

    sides: tuple[int, ...]
    batch: int
    labelled: int = 0
    peak_rate: float
    tower_share: float = 1.0
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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """`pixels (n, 3, s, s)`, `ids (n, length)`; the first `captioned` rows teach the decoder. Teacher goals `(n, t)`."""

    pixels: Tensor
    ids: Tensor
    captioned: int
    image_goal: Tensor | None
    text_goal: Tensor | None


class _Feed:
    """Batches of captioned images, each drawn from the seed and its step alone, so that a resumed run sees the same."""

    def __init__(
        self,
        config: FitConfig,
        tokenizer: TextTokenizer,
        train: CaptionedImages,
        extra: LabelledImages | None,
        teacher: Teacher | None,
        statistics: Statistics,
        device: str,
    ) -> None:
        self._config, self._train, self._extra, self._teacher = config, train, extra, teacher
        self._statistics, self._device = statistics, device
        self._ids = [torch.from_numpy(tokenizer.encode(captions)) for captions in train.captions]
        self._class_ids = torch.from_numpy(tokenizer.encode(class_phrases(extra))) if extra is not None else None
        self._means = teacher.images() if teacher is not None else None
        self.captioned = min(config.batch - config.labelled, len(train.captions))
        self.per_epoch = len(train.captions) // self.captioned

    def draw(self, step: int) -> Batch:
        config, train, extra, teacher = self._config, self._train, self._extra, self._teacher
        epoch, position = divmod(step, self.per_epoch)
        side = config.sides[epoch]
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.captions))
        rows = order[position * self.captioned : (position + 1) * self.captioned]
        draw = np.random.default_rng((config.seed, epoch, position))
        which = [int(draw.integers(len(train.captions[row]))) for row in rows]
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        how = {"min_area": config.smallest_crop, "statistics": self._statistics, "device": self._device}
        pixels = [augment(train.take(rows), side, rng, **how)]  # type: ignore[arg-type]
        ids = [self._ids[row][which_caption][None] for row, which_caption in zip(rows, which, strict=True)]
        labels = np.empty(0, np.int64)
        if extra is not None and self._class_ids is not None and config.labelled:
            others = draw.choice(len(extra.labels), config.labelled, replace=False)
            labels = extra.labels[others]
            pixels.append(augment(extra.images[others], side, rng, **how))  # type: ignore[arg-type]
            ids.append(self._class_ids[labels])
        image_goal = text_goal = None
        if teacher is not None and self._means is not None:
            texts = [teacher.captions[row][which_caption] for row, which_caption in zip(rows, which, strict=True)]
            image_goal = torch.from_numpy(np.stack([*self._means[rows], *teacher.classes[labels]])).to(self._device)
            text_goal = torch.from_numpy(np.stack([*texts, *teacher.classes[labels]])).to(self._device)
        return Batch(
            pixels=torch.cat(pixels).contiguous(memory_format=torch.channels_last),
            ids=torch.cat(ids).to(self._device),
            captioned=len(rows),
            image_goal=image_goal,
            text_goal=text_goal,
        )


def class_phrases(extra: LabelledImages) -> list[str]:
    """The captions of class images."""
    return [f"a photo of a {name}" for name in extra.names]


def fit(
    model: Any,
    tokenizer: TextTokenizer,
    config: FitConfig,
    train: CaptionedImages,
    dev: CaptionedImages,
    work: Path,
    *,
    extra: LabelledImages | None = None,
    teacher: Teacher | None = None,
    statistics: Statistics = MINI,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Train a CLIP or CoCa and return the state of its weights' moving average.

    Resumes from `work/fit.safetensors`, logs to `work/log.jsonl`, and keeps the result so far in `work/result.safetensors`.
    Raises `Diverged` on a loss that is not finite; the last checkpoint is kept.
    """
    torch.manual_seed(config.seed)
    feed = _Feed(config, tokenizer, train, extra, teacher, statistics, device)
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
    """Weight decay on matrices only, and the image tower at its own share of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in whole.named_parameters():
        share = config.tower_share if name.startswith("model.visual.") else 1.0
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": many, "weight_decay": decay, "share": share} for (share, decay), many in groups.items()],
        lr=config.peak_rate,
        betas=(0.9, 0.98),
    )


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
    images = F.normalize(F.dropout(image_raw, config.dropout), dim=-1)
    texts = F.normalize(F.dropout(text_raw, config.dropout), dim=-1)
    logits = images @ texts.T * model.logit_scale.exp()
    by_image = by_text = torch.eye(len(logits), device=logits.device)
    parts: dict[str, Tensor] = {}
    if batch.image_goal is not None and batch.text_goal is not None:
        alike = batch.image_goal @ batch.text_goal.T / config.teacher_heat
        by_image = (1 - config.soft) * by_image + config.soft * alike.softmax(-1)
        by_text = (1 - config.soft) * by_text + config.soft * alike.T.softmax(-1)
        if whole.image_head is not None and whole.text_head is not None:
            image_agreement = F.cosine_similarity(whole.image_head(image_raw).float(), batch.image_goal)
            text_agreement = F.cosine_similarity(whole.text_head(text_raw).float(), batch.text_goal)
            parts["distil"] = config.distil * (2 - image_agreement.mean() - text_agreement.mean())
    parts["contrast"] = (F.cross_entropy(logits, by_image) + F.cross_entropy(logits.T, by_text)) / 2
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
    return parts


def caption_loss(decoder: Any, image_tokens: Tensor, states: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of the next token, padding (id 0) left out.

    `image_tokens (n, t, w)`, `states (n, length - 1, w)`, `labels (n, length - 1)`. The vocabulary's logits are made for
    real tokens only: they are most of the decoder's cost, and almost half of the positions are padding.
    """
    length = states.shape[1]
    for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        states = block(states, attn_mask=decoder.attn_mask[:length, :length])
        states = cross(states, k_x=image_tokens, v_x=image_tokens)
    real = labels != 0
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
