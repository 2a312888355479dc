"""How good a model is on captioned images: recall and captions. `python -m training.evaluate --help`.

Everything goes the way that a user's images go: the model is loaded by NAME, with its own preprocessing.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets import from_container
from benchmarks.encoded import encode_set
from benchmarks.metrics import Recall, recall_both_ways
from retrieval.crossmodal.decoder import CaptionDecoder, DecodeConfig
from retrieval.models.encoder import Encoder
from training.machine import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object with what was measured."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--captions", action="store_true", help="decode a caption for each image, and score them")
    parser.add_argument("--show", type=int, default=0, help="print this many captions")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    dataset = from_container(given.parquet)
    began = time.monotonic()
    encoder = Encoder.load(given.model, given.device, given.precision)
    decoder = CaptionDecoder(encoder.loaded) if given.captions else None
    data = encode_set(dataset, encoder, decoder)
    to_image, to_text = recall_both_ways(data.images, data.texts, data.owner)
    report: dict[str, object] = {
        "model": given.model,
        "weights_sha256": encoder.spec.weights_sha256,
        "images": len(data.images),
        "texts": len(data.texts),
        "text_to_image": percent(to_image),
        "image_to_text": percent(to_text),
    }
    if decoder is not None and given.captions:
        captions = [
            caption.text
            for at in range(0, len(data.tokens), 50)
            for caption in decoder.decode(data.tokens[at : at + 50], DecodeConfig())
        ]
        report["captions"] = score_captions(captions, dataset.captions)
        for line in captions[: given.show]:
            print(line)
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


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, object]:
    """Corpus BLEU (Papineni et al., 2002) of words in lower case without punctuation, against all references."""
    import sacrebleu

    most = max(len(many) for many in references)
    # An image with fewer captions than another repeats its first, which changes no n-gram's largest count.
    turned = [[_words(many[n] if n < len(many) else many[0]) for many in references] for n in range(most)]
    bleu = sacrebleu.corpus_bleu(
        [_words(caption) for caption in captions], turned, tokenize="none", smooth_method="none"
    )
    return {
        "BLEU-4": round(bleu.score / 100, 4),
        "BLEU-1": round(bleu.precisions[0] / 100 * bleu.bp, 4),
        "different": len(set(captions)),
        "mean_words": round(float(np.mean([len(caption.split()) for caption in captions])), 2),
    }


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


if __name__ == "__main__":
    raise SystemExit(main())
