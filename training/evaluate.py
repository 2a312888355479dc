"""How good a model is on captioned images: recall, re-ranking and captions. `python -m training.evaluate --help`.

Everything goes the way that a user's pictures go: the model is loaded by NAME, with its own preprocessing.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.metrics import Recall, recall_both_ways
from retrieval.decoder import CaptionDecoder, DecodeConfig
from retrieval.encoder import Encoder
from training.data import read_columns
from training.machine import keep_freed_memory

CANDIDATES = 50
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(17))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with what was measured."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--captions", action="store_true", help="decode a caption for each image, and score them")
    parser.add_argument(
        "--rerank", action="store_true", help="re-rank the first 50 images of each text by its likelihood"
    )
    parser.add_argument("--show", type=int, default=0, help="print this many captions")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    columns = read_columns([given.parquet], ("image", "captions"))
    pictures = [Image.open(io.BytesIO(blob)).convert("RGB") for blob in columns["image"] if isinstance(blob, bytes)]
    captions = [[str(one) for one in many] for many in columns["captions"] if isinstance(many, list)]
    began = time.monotonic()
    encoder = Encoder.load(given.model, given.device, given.precision)
    images, texts = encoder.encode_images(pictures), encoder.encode_texts([one for many in captions for one in many])
    owner = np.repeat(np.arange(len(captions)), [len(many) for many in captions])
    to_image, to_text = recall_both_ways(images, texts, owner)
    report: dict[str, object] = {
        "model": given.model,
        "weights_sha256": encoder.spec.weights_sha256,
        "images": len(images),
        "texts": len(texts),
        "text_to_image": percent(to_image),
        "image_to_text": percent(to_text),
    }
    if given.captions or given.rerank:
        loaded = encoder.loaded
        decoder = CaptionDecoder(loaded)
        tokens = [
            decoder.image_tokens(torch.stack([loaded.preprocess(picture) for picture in pictures[at : at + 50]]))
            for at in range(0, len(pictures), 50)
        ]
        if given.captions:
            found = [caption.text for part in tokens for caption in decoder.decode(part, DecodeConfig())]
            report["captions"] = score_captions(found, captions)
            for line in found[: given.show]:
                print(line)
        if given.rerank:
            ids = torch.from_numpy(loaded.tokenizer.encode([one for many in captions for one in many]))
            report["rerank"] = measure_rerank(decoder, torch.cat(tokens), ids, texts @ images.T, owner)
    report["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(report))
    return 0


def percent(recall: Recall) -> dict[str, float]:
    """Recalls in percent, as the literature prints them."""
    return {
        "R@1": round(100 * recall.r1, 1),
        "R@5": round(100 * recall.r5, 1),
        "R@10": round(100 * recall.r10, 1),
        "median_rank": recall.median_rank,
    }


def score_captions(found: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, object]:
    """Corpus BLEU (Papineni et al., 2002) of words in lower case without punctuation, against all references."""
    import sacrebleu

    most = max(len(many) for many in references)
    # An image with fewer captions than another repeats its first, which changes no n-gram's largest count.
    turned = [[_words(many[n] if n < len(many) else many[0]) for many in references] for n in range(most)]
    bleu = sacrebleu.corpus_bleu([_words(one) for one in found], turned, tokenize="none", smooth_method="none")
    return {
        "BLEU-4": round(bleu.score / 100, 4),
        "BLEU-1": round(bleu.precisions[0] / 100 * bleu.bp, 4),
        "different": len(set(found)),
        "mean_words": round(float(np.mean([len(one.split()) for one in found])), 2),
    }


def measure_rerank(
    decoder: CaptionDecoder, tokens: Tensor, ids: Tensor, cosines: NDArray[np.float32], owner: NDArray[np.int64]
) -> dict[str, object]:
    """Text-to-image R@1 before and after the first 50 are ordered by (1 − w)·cosine + w·log P(text | image).

    Both scores are standardised over a text's candidates. `w` is chosen on the texts of one half of the images and
    judged on the other half, then the other way round, so no text helps to choose its own weight.
    """
    first = np.argsort(-cosines, axis=1, kind="stable")[:, :CANDIDATES]
    near = np.take_along_axis(cosines, first, 1)
    likely = np.stack(
        [decoder.log_probabilities(tokens[row], ids[text : text + 1]).cpu().numpy() for text, row in enumerate(first)]
    )
    right = first == owner[:, None]
    a, b = _standard(near), _standard(likely)
    hits = np.stack([right[np.arange(len(right)), ((1 - w) * a + w * b).argmax(1)] for w in WEIGHTS])
    half = owner % 2 == 0
    chosen = [int(hits[:, part].mean(1).argmax()) for part in (half, ~half)]
    crossed = np.where(half, hits[chosen[1]], hits[chosen[0]])
    return {
        "R@1_before": round(100 * float(hits[0].mean()), 2),
        "R@1_after": round(100 * float(crossed.mean()), 2),
        "weights": [WEIGHTS[one] for one in chosen],
        "by_weight": {str(w): round(100 * float(row.mean()), 2) for w, row in zip(WEIGHTS, hits, strict=True)},
    }


def _standard(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = scores.std(1, keepdims=True)
    return np.asarray((scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1), np.float32)


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


if __name__ == "__main__":
    raise SystemExit(main())
