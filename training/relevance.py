"""What a score means, from captioned images: hits of captions and of single words, labelled by the captions of the images.

A true pair against a random one is too easy a question: the first hits of a search are the best of thousands, also where
nothing in the collection is what was asked for. So the pairs here are hits, of the first `HITS` of each query. A caption's
own image is relevant to it, and an image none of whose captions shares a word with it is not; what is between is left out.
For a word, the captions of an image say whether it is there.

Captioned images are of one kind, and a score means something else among others. So labelled photos of many kinds can be added:
each label is looked for among all of them, and among those that have none of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from benchmarks.encoded import EncodedSet, Ints
from benchmarks.metrics import Flags, Floats
from benchmarks.relevance import sharing_words, words_of
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.models.encoder import Encoder
from retrieval.ranking.relevance import Calibration, fit_calibration
from training.data import LabelledImages

HITS = 10
# Words that so many captioned images have are asked for; one that every fifth has says little.
_LEAST_IMAGES, _MOST_SHARE = 5, 0.2
_SHORTEST = 4


@dataclass(frozen=True, kw_only=True)
class JudgedHits:
    """Hits of which it is known whether they are relevant: the number of the query and of the image, `(n,)` each."""

    queries: Ints
    images: Ints
    cosines: Floats
    relevant: Flags


def words_to_ask(words: Sequence[set[str]]) -> list[str]:
    """Words that some images have and most have not."""
    counts = Counter(word for mine in words for word in mine)
    most = _MOST_SHARE * len(words)
    return sorted(word for word, count in counts.items() if _LEAST_IMAGES <= count <= most and len(word) >= _SHORTEST)


def judged_hits(
    images: Floats, texts: Floats, wanted: Sequence[set[str]], own: Sequence[int | None], words: Sequence[set[str]]
) -> JudgedHits:
    """The first hits of texts `(q, d)` among images `(n, d)`, as far as they can be judged: `wanted` are the words of each
    text, `own` the image that it describes, None for one that is a single word."""
    cosines = texts @ images.T
    first = np.argsort(-cosines, axis=1, kind="stable")[:, :HITS]
    queries, places, relevant = [], [], []
    for query, hits in enumerate(first.tolist()):
        for image in hits:
            shared = bool(wanted[query] & words[image])
            if own[query] is not None and shared and image != own[query]:
                continue
            queries.append(query)
            places.append(image)
            relevant.append(shared if own[query] is None else image == own[query])
    chosen = np.array(queries, np.int64), np.array(places, np.int64)
    return JudgedHits(
        queries=chosen[0], images=chosen[1], cosines=cosines[chosen], relevant=np.array(relevant, np.bool_)
    )


def labelled_hits(images: Floats, texts: Floats, labels: Ints, names: Sequence[str]) -> JudgedHits:
    """The first hits of label texts `(names, d)` among photos `(n, d)` of which `labels (n,)` are known; those of a photo whose
    label shares a word with the one asked for are left out. Each label is asked for where it is, and where it is not."""
    cosines = texts @ images.T
    shared = sharing_words(names)
    queries, places, relevant = [], [], []
    for query in np.unique(labels).tolist():
        near = shared[query][labels]
        for others_alone in (False, True):
            order = np.argsort(-cosines[query], kind="stable")
            order = order[(labels[order] == query) | ~near[order]] if not others_alone else order[~near[order]]
            for image in order[:HITS].tolist():
                queries.append(query)
                places.append(image)
                relevant.append(bool(labels[image] == query))
    chosen = np.array(queries, np.int64), np.array(places, np.int64)
    return JudgedHits(
        queries=chosen[0], images=chosen[1], cosines=cosines[chosen], relevant=np.array(relevant, np.bool_)
    )


def calibrations(
    data: EncodedSet,
    captions: Sequence[Sequence[str]],
    encoder: Encoder,
    decoder: CaptionDecoder,
    weight: float,
    photos: LabelledImages | None = None,
) -> dict[str, Calibration]:
    """The relevance of a `cosine`, and of a `fused` score with this `weight`, as `retrieval.ranking.relevance` defines it, from
    captioned images and, where there are, labelled `photos`."""
    words = words_of(captions)
    asked = words_to_ask(words)
    flat = [text for many in captions for text in many]
    hits = judged_hits(
        data.images,
        np.concatenate([data.texts, encoder.encode_texts(asked)]),
        [*words_of([[text] for text in flat]), *({word} for word in asked)],
        [*data.owner.tolist(), *[None] * len(asked)],
        words,
    )
    ids = torch.cat([data.ids, torch.from_numpy(encoder.loaded.tokenizer.encode(asked))])
    side = encoder.spec.image_size
    fused = hits.cosines + weight * _likelier(hits, data.tokens, ids, side, decoder)
    judged = [(hits.cosines, fused, hits.relevant)]
    if photos is not None:
        pixels = [encoder.preprocess(Image.fromarray(image)) for image in photos.images]
        images = encoder.encode_pixels(pixels)
        tokens = torch.cat(
            [decoder.image_tokens(torch.from_numpy(np.stack(pixels[at : at + 64]))) for at in range(0, len(pixels), 64)]
        )
        named = labelled_hits(images, encoder.encode_texts(photos.names), photos.labels, photos.names)
        ids = torch.from_numpy(encoder.loaded.tokenizer.encode(photos.names))
        judged.append(
            (named.cosines, named.cosines + weight * _likelier(named, tokens, ids, side, decoder), named.relevant)
        )
    cosines, fused, relevant = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    return {
        name: fit_calibration(scores[relevant], scores[~relevant])
        for name, scores in (("cosine", cosines), ("fused", fused))
    }


def _likelier(
    hits: JudgedHits, image_tokens: torch.Tensor, ids: torch.Tensor, side: int, decoder: CaptionDecoder
) -> Floats:
    """How much likelier each hit makes its text than an empty image does, in nats a token, `(n,)`."""
    null = decoder.image_tokens(torch.zeros(1, 3, side, side))
    images, texts = torch.from_numpy(hits.images), torch.from_numpy(hits.queries)
    tokens = image_tokens.to(null.device, null.dtype)
    likely = decoder.pair_log_probabilities(tokens, ids, images, texts) - decoder.log_probabilities(null, ids)[texts]
    return likely.cpu().numpy()
