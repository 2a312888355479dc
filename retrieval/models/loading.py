"""From a model's files to a model in memory: architecture, weights, preprocessing, tokenizer, device and precision."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import ModelChoiceError, ModelError
from retrieval.models.architecture import prepared
from retrieval.models.preprocess import PixelConfig, is_plain, preprocessing
from retrieval.models.processor import cpu_has_bf16
from retrieval.models.tokens import TextTokenizer, TokenRules
from retrieval.models.weights import ModelFiles, resolve, weights_sha256
from retrieval.types import ModelSpec

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# The least cosine between an embedding in lower precision and the same in float32, below which float32 is used.
LEAST_COSINE = 0.999
_MULTI_WEIGHTS = (RuntimeError, ValueError, KeyError, OSError, EOFError, AttributeError, TypeError)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to encode. `preprocess` turns a PIL image into `(3, s, s) float32`; `precision` is what it runs in;
    `plain_pixels` says that `retrieval.models.preprocess.image_pixels` does the same. With `half_scores`, a decoder may score
    texts in bfloat16 although embeddings need float32: nobody asked for a precision, and the processor has it."""

    spec: ModelSpec
    model: Any
    preprocess: Callable[[Image], torch.Tensor]
    tokenizer: TextTokenizer
    device: str
    precision: str
    plain_pixels: bool
    half_scores: bool = False


def load_model(name: str | ModelFiles, device: str = "auto", precision: str = "auto") -> LoadedModel:
    """Load a model by NAME for `device` (`auto`, `cpu`, `cuda[:N]`) in `precision` (`auto`, `fp32`, `bf16`, `fp16`).

    Raises `ModelError` when it is not here, does not fit its architecture, or the device is absent.
    """
    check_choices(device, precision)
    files = resolve(name) if isinstance(name, str) else name
    place = choose_device(device)
    load = _load_mini if files.architecture == "ConvCoCa" else _load_open_clip
    with _quiet():
        try:
            loaded = load(files)
        except ModelError:
            raise
        except _MULTI_WEIGHTS as error:
            raise ModelError(f"cannot load {files.name} from {files.weights}: {_line(error)}") from error
        except Exception as error:
            # What unpickling and safetensors raise has no common parent; all of it means the file is not plain weights.
            raise ModelError(f"{files.weights} is not a file of plain weights: {_line(error)}") from error
    model = loaded.model.eval()
    chosen = _apply_precision(model, loaded.spec, place, precision, lambda: load(files).model.state_dict())
    half = precision == "auto" and chosen == "fp32" and place == "cpu" and cpu_has_bf16()
    return replace(loaded, model=model, device=place, precision=chosen, half_scores=half)


PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def check_choices(device: str, precision: str) -> None:
    """Raise `ModelChoiceError` for a device or a precision that there is not, without loading a model."""
    if precision not in PRECISIONS:
        raise ModelChoiceError(f"unknown precision {precision!r}; use auto, fp32, bf16 or fp16")
    kind, colon, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and number.isdecimal()):
        raise ModelChoiceError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        choose_device(device)


def choose_device(device: str) -> str:
    """The device a name means on this machine; `ModelChoiceError` when it is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise ModelChoiceError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ModelChoiceError(f"device {device} is not here: torch sees no CUDA GPU on this machine; use auto or cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise ModelChoiceError(
            f"device {device} is not here: this machine has {torch.cuda.device_count()} CUDA GPUs; use another"
        )
    return device


def _apply_precision(
    model: Any, spec: ModelSpec, device: str, precision: str, original: Callable[[], dict[str, Any]]
) -> str:
    """Move `model` to its device in the precision asked for, or the fastest one that keeps its embeddings.

    `original` reads the float32 state again: it is rarely needed, and kept in memory it would double the peak.
    """
    import torch

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model.to(device)
    if precision == "auto":
        if device.startswith("cuda"):
            wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        else:
            wanted = "bf16" if cpu_has_bf16() else "fp32"
        if wanted == "fp32":
            return wanted
        rng = torch.Generator().manual_seed(3)
        probe = torch.randn(4, 3, spec.image_size, spec.image_size, generator=rng).to(device)
        # Not in inference mode: parameters that were converted in it could never again be part of a gradient.
        with torch.no_grad():
            before = model.encode_image(probe, normalize=True).float()
            model.to(types[wanted])
            after = torch.nn.functional.normalize(model.encode_image(probe.to(types[wanted])).float(), dim=-1)
        if float((before * after).sum(-1).min()) >= LEAST_COSINE:
            return wanted
        model.to(torch.float32)
        model.load_state_dict(original())
        return "fp32"
    model.to(types[precision])
    return precision


def _load_open_clip(files: ModelFiles) -> LoadedModel:
    import open_clip
    from open_clip.transform import PreprocessCfg

    with prepared(files) as (folder, config):
        original = open_clip.get_tokenizer(f"local-dir:{folder}")
        model = _build(open_clip.create_model, f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    _fill(model, files.weights)
    pre = PreprocessCfg(**model.visual.preprocess_cfg)
    size = pre.size if isinstance(pre.size, int) else pre.size[0]
    tokenizer = tokenizer_of(original, str(config["text_cfg"].get("hf_tokenizer_name") or "clip-bpe"))
    spec = _with_sigmoid(_spec(files, int(config["embed_dim"]), size, pre, tokenizer.rules), model)
    return LoadedModel(spec, model, preprocessing(pre), tokenizer, "cpu", "fp32", is_plain(pre))


def _build(create: Callable[..., Any], name: str, **options: bool) -> Any:
    """A model whose parameters are not filled: random numbers that weights replace at once cost seconds and memory.

    Memory that nothing has written is not resident, so the peak of loading is the weights themselves.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    random = {torch.Tensor.uniform_, torch.Tensor.normal_}

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in random or getattr(func, "__module__", None) == "torch.nn.init":
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    with Unfilled():
        return create(name, **options)


def _fill(model: Any, weights: Path) -> None:
    """Give `model` its weights, every one of them or none: a file that lacks one raises `RuntimeError`.

    Tensors of a safetensors file are mapped, not copied, and those of a tower that is not used are never read.
    """
    import open_clip

    load = model.load_state_dict
    model.load_state_dict = lambda state, strict: load(_as_float(state), strict=strict, assign=True)
    try:
        open_clip.load_checkpoint(model, str(weights), strict=True, weights_only=True)
    finally:
        del model.load_state_dict


def _as_float(state: dict[str, Any]) -> dict[str, Any]:
    import torch

    half = (torch.float16, torch.bfloat16)
    return {name: value.float() if value.dtype in half else value for name, value in state.items()}


def _load_mini(files: ModelFiles) -> LoadedModel:
    from safetensors.torch import load_file

    from retrieval.models.convcoca import ConvCoCa, ConvCoCaConfig

    folder = files.folder or files.weights.parent
    config = json.loads((folder / "config.json").read_text("utf-8"))
    try:
        sizes = ConvCoCaConfig.from_json(config["model"])
    except (TypeError, KeyError) as error:
        raise ModelError(f"{folder}: its model is of another edition of mmsearch; tune `mini` again") from error
    model = ConvCoCa(sizes)
    model.load_state_dict({name: value.float() for name, value in load_file(files.weights).items()})
    pre = PixelConfig(size=sizes.image_size, **config["preprocessing"])
    tokenizer = TextTokenizer.open(folder)
    spec = _spec(files, sizes.embed_dim, sizes.image_size, pre, tokenizer.rules)
    return LoadedModel(spec, model, preprocessing(pre), tokenizer, "cpu", "fp32", is_plain(pre))


def _spec(files: ModelFiles, dim: int, size: int, pre: Any, rules: TokenRules) -> ModelSpec:
    return ModelSpec(
        name=files.name,
        architecture=files.architecture,
        weights_sha256=weights_sha256(files.weights),
        dim=dim,
        image_size=size,
        mean=tuple(round(float(value), 8) for value in pre.mean),  # type: ignore[arg-type]
        std=tuple(round(float(value), 8) for value in pre.std),  # type: ignore[arg-type]
        interpolation=pre.interpolation,
        resize_mode=pre.resize_mode,
        tokenizer=rules.name,
        context_length=rules.length,
        clean=rules.clean,
    )


def _with_sigmoid(spec: ModelSpec, model: Any) -> ModelSpec:
    """A model's spec with the scale and bias of its pairs, where it was trained with those."""
    if getattr(model, "logit_bias", None) is None:
        return spec
    return replace(spec, scale=float(model.logit_scale.exp()), bias=float(model.logit_bias))


def tokenizer_of(original: Any, name: str) -> TextTokenizer:
    """open_clip's tokenizer as a `TextTokenizer` that gives the same ids (a test holds the two side by side)."""
    import tokenizers
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn

    how = next(name for name in ("canonicalize", "whitespace", "lower") if get_clean_fn(name) is original.clean_fn)
    if isinstance(original, SimpleTokenizer):
        from tokenizers import Regex, decoders, models, pre_tokenizers

        merges = sorted(original.bpe_ranks, key=original.bpe_ranks.__getitem__)
        bpe = models.BPE(vocab=original.encoder, merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
        built = tokenizers.Tokenizer(bpe)
        words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        built.decoder = decoders.ByteLevel()
        start, end = original.sot_token_id, original.eot_token_id
        rules = TokenRules(name=name, clean=how, length=original.context_length, prefix=(start,), suffix=(end,))
        return TextTokenizer(rules, built)
    if isinstance(original, HFTokenizer) and original.tokenizer.is_fast and not original.tokenizer_mode:
        inner = original.tokenizer
        built = tokenizers.Tokenizer.from_str(inner.backend_tokenizer.to_str())
        built.no_padding()
        built.no_truncation()
        around = _around(built)
        if around is not None and inner.truncation_side == "right":
            erase = inner.sep_token_id if original.strip_sep_token and inner.sep_token_id is not None else -1
            rules = TokenRules(
                name=name, clean=how, length=original.context_length, prefix=around[0], suffix=around[1],
                pad=inner.pad_token_id or 0, pad_left=inner.padding_side == "left", erase=erase,
            )  # fmt: skip
            return TextTokenizer(rules, built)
    raise ModelError(
        f"the tokenizer of {name} is of a kind that mmsearch does not read yet ({type(original).__name__})"
    )


def _around(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The ids that a tokenizer puts before and behind a text; None where it does something else with it."""
    bare, whole = (model.encode("a dog", add_special_tokens=added).ids for added in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings about their own internals off the user's terminal while a model loads."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:240] + "…") if len(text) > 240 else text or type(error).__name__
