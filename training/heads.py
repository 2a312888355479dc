"""Train the fusion heads of a reranker: `python -m training.heads --help`.

It needs captioned images that the model was not trained on, because scores of its training images do not carry over to
others. Each text is shown with the images nearest to it, and the head learns to put the right one
first: cross-entropy over the list (Cao et al., *Learning to Rank: From Pairwise Approach to Listwise Approach*, 2007).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.datasets import from_container
from benchmarks.encoded import EncodedSet, SecondStage, encode_set, second_stage
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.heads import FILE, new_heads
from retrieval.models.encoder import Encoder
from retrieval.models.weights import MINI
from retrieval.ranking.fitted import Fitted
from training.machine import keep_freed_memory

# Cosines differ by hundredths; this makes of them the logits of a list.
LIST_SCALE = 20.0
EPOCHS = 2
_BATCH = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both, and write them into the model's folder."""
    parser = argparse.ArgumentParser(prog="python -m training.heads", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--images", type=int, required=True, help="train on the first so many of them")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path, default=MINI, help="the model's folder")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    encoder = Encoder.load(given.model, given.device, given.precision)
    decoder = CaptionDecoder(encoder.loaded)
    data = encode_set(from_container(given.parquet).part(0, given.images), encoder, decoder)
    heads = train_heads(data, second_stage(data, encoder, decoder)[0], decoder, Fitted.of(given.output).weight)
    state = {name: value.half().cpu().contiguous() for name, value in heads.state_dict().items()}
    save_file(state, given.output / FILE)
    return 0


def train_heads(
    data: EncodedSet, stage: SecondStage, decoder: CaptionDecoder, weight: float, *, rate: float = 1e-3, seed: int = 0
) -> nn.ModuleDict:
    """Both heads, trained on each text with its first images; texts whose own image is not among those teach nothing."""
    torch.manual_seed(seed)
    tokens = data.tokens.float().to(decoder.device)
    heads = new_heads(tokens.shape[-1]).to(decoder.device)
    second = torch.from_numpy(stage.likely - stage.prior).to(decoder.device)
    cosine = torch.from_numpy(stage.cosine).to(decoder.device)
    goal = torch.from_numpy(stage.right.argmax(1)).to(decoder.device)
    useful = torch.from_numpy(np.flatnonzero(stage.right.any(1)))
    for name, head in heads.items():
        optimiser = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.3)
        total = EPOCHS * (len(useful) // _BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, total))
        head.train()
        for epoch in range(EPOCHS):
            losses = []
            for rows in torch.split(useful[torch.randperm(len(useful))], _BATCH):
                if len(rows) < min(_BATCH, len(useful)):
                    continue
                fixes = _lists(head, data, stage, decoder, rows, tokens, cosine, second)
                logits = LIST_SCALE * (cosine[rows] + weight * second[rows] + fixes)
                loss = F.cross_entropy(logits, goal[rows])
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                losses.append(float(loss.item()))
            print(json.dumps({"head": name, "epoch": epoch + 1, "loss": round(float(np.mean(losses)), 4)}), flush=True)
    return heads.eval()


def _lists(
    head: nn.Module,
    data: EncodedSet,
    stage: SecondStage,
    decoder: CaptionDecoder,
    rows: Tensor,
    tokens: Tensor,
    cosine: Tensor,
    second: Tensor,
) -> Tensor:
    """The head's corrections `(rows, c)` of some texts with their first images."""
    words, real = (this.clone() for this in decoder.words(data.ids[rows]))
    corrections = []
    for at, row in enumerate(rows.tolist()):
        this = slice(at, at + 1)
        corrections.append(head(words[this], real[this], tokens[stage.answers[row]], cosine[row], second[row]))
    return torch.stack(corrections)


if __name__ == "__main__":
    raise SystemExit(main())
