"""A model as the hub publishes it, with random weights, in the layout of the hub's own cache: what a machine without a network
measures and tests with. `HF_HOME=/tmp/hub python -m benchmarks.published ViT-B-32-SigLIP2-256/webli`

Random weights take as long as trained ones, and a made-up vocabulary of 256,000 pieces as long as a real one.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The letters that pieces are made of, the frequent ones first, and how many of ten pieces are theirs.
_SCRIPTS = (
    ("abcdefghijklmnopqrstuvwxyz", 4),
    ("".join(map(chr, range(0x430, 0x450))), 2),
    ("".join(map(chr, (*range(0xDF, 0x100), *range(0x61, 0x7B)))), 1),
    ("".join(map(chr, range(0x4E00, 0x5E00))), 1),
    ("".join(map(chr, range(0x3041, 0x3090))), 1),
    ("".join(map(chr, range(0x905, 0x93A))), 1),
)
_OTHERS = "".join(map(chr, (*range(0x30, 0x5B), *range(0x5D0, 0x5EB), *range(0x627, 0x64B), *range(0xAC00, 0xB000))))
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_SPACE = "▁"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one model of the catalogue, or any other that open_clip knows."""
    from retrieval.models.weights import hub_repo

    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("name", help="ARCH/TAG")
    given = parser.parse_args(arguments)
    print(publish_random(given.name, hub_repo(given.name)))
    return 0


def publish_random(name: str, repo: str) -> Path:
    """Random weights of ARCH/TAG in half precision, with a tokenizer where the architecture names one; returns the folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    architecture = name.rpartition("/")[0]
    config = open_clip.get_model_config(architecture)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        torch.manual_seed(0)
        model = open_clip.create_model(architecture, pretrained_text=False)
        state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        save_file(state, here / "open_clip_model.safetensors")
        tokenizer = config["text_cfg"].get("hf_tokenizer_name")
        if tokenizer == repo:
            write_tokenizer(here, piece_tokenizer(int(config["text_cfg"]["vocab_size"])))
        return publish(repo, {file.name: file.read_bytes() for file in here.iterdir()})


def publish(repo: str, files: Mapping[str, bytes]) -> Path:
    """Files as a snapshot of a repository in the hub's cache; returns its folder."""
    from huggingface_hub import constants

    base = Path(constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = base / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    (base / "refs").mkdir(exist_ok=True)
    (base / "refs" / "main").write_text(revision)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


def piece_tokenizer(size: int, seed: int = 0) -> Any:
    """A `tokenizers.Tokenizer` of the kind that Gemma and SigLIP 2 have: `size` pieces of several scripts, made by joining two
    of them at a time, bytes for what is not among them, and `<eos>` behind a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    rng = random.Random(seed)
    runs = [mark * count for mark in ("\n", _SPACE) for count in range(2, 8)]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = dict.fromkeys("".join(script for script, _ in _SCRIPTS) + _OTHERS + _SPACE + "\n")
    pools = [[_SPACE, *script] for script, share in _SCRIPTS for _ in range(share)]
    first = [*_SPECIAL, *runs, *bytes_]
    if size < len(first) + len(letters):
        raise ValueError(f"a vocabulary of this kind has at least {len(first) + len(letters)} pieces")
    pieces = dict(letters)
    while len(first) + len(pieces) < size:
        pool = rng.choice(pools)
        scale = 1 / (0.15 * len(pool) + 5)
        one, other = (pool[min(int(rng.expovariate(scale)), len(pool) - 1)] for _ in range(2))
        if _SPACE not in other and len(one + other) <= 14 and one + other not in pieces:
            pieces[one + other] = None
            pool.append(one + other)
    joined = [piece for piece in pieces if len(piece) > 1]
    vocabulary = {piece: number for number, piece in enumerate([*first, *joined, *letters])}
    # Each piece can be made of any two that it is of, those made earlier first: as the published ones are listed.
    merges = [
        pair
        for piece in joined
        for pair in sorted(
            (
                (piece[:cut], piece[cut:])
                for cut in range(1, len(piece))
                if piece[:cut] in pieces and piece[cut:] in pieces
            ),
            key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]),
        )
    ]
    model = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    model.normalizer = normalizers.Replace(" ", _SPACE)
    model.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    model.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    model.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    model.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    model.add_tokens([AddedToken(token, normalized=False) for token in runs])
    return model


def write_tokenizer(folder: Path, model: Any) -> None:
    """The files of such a tokenizer as SigLIP 2 is published with them."""
    model.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    settings = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right",
        "model_max_length": 64, "clean_up_tokenization_spaces": False, **names,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names), "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
