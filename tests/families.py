"""Small models of every family that is published for open_clip, with random weights, in the files of their publication."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.published import piece_tokenizer, publish, write_tokenizer

SENTENCES = [
    "two children playing football on a wet field", "a red car parked in front of an old stone house",
    "people sitting around a table at night laughing", "snow on a mountain", "an aerial view of a harbour with many boats",
    "zwei Hunde laufen durch den Schnee", "собака бежит по траве", "a close-up photo of a slice of lemon cake",
]  # fmt: skip
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
HALVES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
UNIT = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "interpolation": "bilinear", "resize_mode": "shortest"}

Vision = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A `model_cfg`, its `preprocess_cfg`, how weights are saved, and what writes the tokenizer: into which repository, or None
    for the model's own."""

    model: dict[str, Any]
    pixels: dict[str, Any]
    save: Callable[[dict[str, torch.Tensor], Path], None]
    tokenizer: Callable[[Path], None] | None = None
    tokenizer_repo: str | None = None
    text_config: dict[str, Any] = field(default_factory=dict)


def _safetensors(state: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(state, folder / "open_clip_model.safetensors")


def _half_bin(state: dict[str, torch.Tensor], folder: Path) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"state_dict": half, "epoch": 3}, folder / "open_clip_pytorch_model.bin")


def _timm(name: str, size: int, pool: str | None, proj: str | None) -> Vision:
    return {"image_size": size, "timm_model_name": name, "timm_model_pretrained": False, "timm_pool": pool,
            "timm_proj": proj}  # fmt: skip


def _text(length: int = 77, vocabulary: int = 49408, **more: Any) -> dict[str, Any]:
    return {"context_length": length, "vocab_size": vocabulary, "width": 32, "heads": 2, "layers": 2, **more}


VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
               "tokenizer_kwargs": {"clean": "canonicalize"}}  # fmt: skip


def _gemma(folder: Path) -> None:
    write_tokenizer(folder, piece_tokenizer(12_000))


def _unigram(folder: Path, kind: str, around: str, special: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    model = Tokenizer(models.Unigram())
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    model.train_from_iterator(SENTENCES * 20, trainer)
    ends = [(token, special.index(token)) for token in ("<s>", "</s>") if token in around]
    model.post_processor = processors.TemplateProcessing(single=around, special_tokens=ends)
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "model_max_length": 64}))


def _bert(folder: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    model = BertWordPieceTokenizer()
    model.train_from_iterator(SENTENCES * 20, vocab_size=300, show_progress=False)
    model.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


FAMILIES: dict[str, Family] = {
    "OpenAI": Family({"embed_dim": 32, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": _text()}, CLIP, _half_bin),
    "SigLIP": Family(
        {
            "embed_dim": 96, "init_logit_bias": -10, "custom_text": True,
            "vision_cfg": _timm("test_vit3", 160, "map", "none"),
            "text_cfg": {**_text(64, 300, hf_tokenizer_name="small/siglip", **SIGLIP_TEXT), "width": 96},
        },
        HALVES, _safetensors, partial(_unigram, kind="T5Tokenizer", around="$A </s>", special=["<pad>", "</s>", "<unk>"]),
    ),
    "SigLIP 2": Family(
        {
            "embed_dim": 96, "init_logit_bias": -10, "custom_text": True,
            "vision_cfg": _timm("test_vit3", 160, "map", "none"),
            "text_cfg": {
                **_text(64, 12_000, hf_tokenizer_name="small/siglip-2", **SIGLIP_TEXT), "width": 96,
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        HALVES, _safetensors, _gemma,
    ),
    "PE-Core": Family(
        {
            "embed_dim": 64, "custom_text": True,
            "vision_cfg": _timm("vit_pe_core_tiny_patch16_384", 384, "map", None), "text_cfg": _text(32),
        },
        {**HALVES, "interpolation": "bilinear"}, _safetensors,
    ),
    "HF text tower": Family(
        {
            "embed_dim": 32, "vision_cfg": VIT,
            "text_cfg": {"hf_model_name": "small/xlm", "hf_tokenizer_name": "small/xlm", "hf_pooler_type": "mean_pooler"},
        },
        CLIP, _safetensors,
        partial(_unigram, kind="XLMRobertaTokenizer", around="<s> $A </s>", special=["<s>", "<pad>", "</s>", "<unk>"]),
        "small/xlm",
        {
            "model_type": "xlm-roberta", "vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "max_position_embeddings": 130, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2, "architectures": ["XLMRobertaModel"],
        },
    ),
    "MobileCLIP": Family(
        {
            "embed_dim": 64, "custom_text": True, "vision_cfg": _timm("fastvit_mci0", 256, "avg", None),
            "text_cfg": _text(no_causal_mask=True),
        },
        UNIT, _safetensors,
    ),
    "CoCa": Family(
        {
            "embed_dim": 32, "custom_text": True,
            "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
            "text_cfg": _text(76, embed_cls=True, output_tokens=True),
            "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
                               "attn_pooler_heads": 4},
        },
        CLIP, _safetensors,
    ),
    "EVA": Family(
        {
            "embed_dim": 64, "custom_text": True, "vision_cfg": _timm("eva02_tiny_patch14_224", 224, "token", None),
            "text_cfg": _text(),
        },
        CLIP, _safetensors,
    ),
    "CLIPA": Family(
        {
            "embed_dim": 32,
            "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            "text_cfg": _text(
                32, 300, hf_tokenizer_name="small/bert", tokenizer_kwargs={"strip_sep_token": True}, pool_type="last",
                no_causal_mask=True,
            ),
        },
        {**HALVES, "interpolation": "bilinear"}, _safetensors, _bert, "small/bert",
    ),
    "ConvNeXt": Family(
        {"embed_dim": 32, "vision_cfg": _timm("test_convnext", 160, "", "linear"), "text_cfg": _text()},
        CLIP, _safetensors,
    ),
    "ResNet": Family(
        {
            "embed_dim": 32, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
            "text_cfg": _text(),
        },
        CLIP, _half_bin,
    ),
}  # fmt: skip


def repo_of(family: str) -> str:
    return "small/" + family.lower().replace(" ", "-")


def publish_family(name: str, work: Path) -> Any:
    """Write a family's files into the hub's cache; returns the original in float32, as open_clip builds it."""
    import open_clip

    family = FAMILIES[name]
    work.mkdir(parents=True)
    model = json.loads(json.dumps(family.model))
    if family.text_config:
        (work / "config.json").write_text(json.dumps(family.text_config))
    if family.tokenizer is not None:
        family.tokenizer(work)
    if family.tokenizer_repo is not None:
        publish(family.tokenizer_repo, dict(_contents(work)))
        for file in work.iterdir():
            file.unlink()
    (work / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": family.pixels}))
    torch.manual_seed(7)
    repo = repo_of(name)
    publish(repo, dict(_contents(work)))
    original = open_clip.create_model(f"hf-hub:{repo}", load_weights=False, pretrained_text=False)
    _embolden(original)
    family.save({key: value.contiguous() for key, value in original.state_dict().items()}, work)
    publish(repo, dict(_contents(work)))
    return original.eval()


def _embolden(model: torch.nn.Module) -> None:
    """Weights with which different pictures and texts have different embeddings: those that training begins with are small."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed" in name and weight.ndim == 2:
                weight.normal_(0, 1)
            elif weight.ndim > 1:
                weight.normal_(0, 1.2 / weight[0].numel() ** 0.5)
            elif "bias" in name and "logit" not in name:
                weight.normal_(0, 0.1)


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in folder.iterdir():
        yield file.name, file.read_bytes()
