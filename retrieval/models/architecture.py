"""What open_clip builds a model from, as a folder of its own: the configuration, and the files of the tokenizer and of a text
tower's configuration, all taken from what is on this machine. Given names, `transformers` would ask the network.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.errors import ModelError
from retrieval.models.weights import ModelFiles

# What tokenizers are read from, and the configuration that tells their kind, or that of a text tower.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
CONFIG = "config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def configuration(files: ModelFiles) -> dict[str, Any]:
    """A model's `open_clip_config.json`: that of its folder, or what open_clip has of its architecture and tag. Raises
    `ModelError`."""
    if files.folder is not None:
        file = files.folder / OPEN_CLIP_CONFIG
        try:
            value: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return {"model_cfg": dict(value["model_cfg"]), "preprocess_cfg": dict(value.get("preprocess_cfg", {}))}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    model = open_clip.get_model_config(files.architecture)
    if model is None:
        raise ModelError(f"open_clip has no architecture {files.architecture!r}")
    tag = get_pretrained_cfg(files.architecture, files.tag) if files.tag else {}
    if tag.get("quick_gelu"):
        model["quick_gelu"] = True
    pixels = {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
    return {"model_cfg": model, "preprocess_cfg": pixels}


def other_repos(model: dict[str, Any]) -> set[str]:
    """The repositories that a `model_cfg` names for its tokenizer and for its text tower's configuration."""
    text = model.get("text_cfg", {})
    return {str(text[key]) for key in ("hf_tokenizer_name", "hf_model_name") if text.get(key)}


@contextmanager
def prepared(files: ModelFiles) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder for `open_clip.create_model` and `open_clip.get_tokenizer`, by `local-dir:`, and the `model_cfg` in it. Raises
    `ModelError` where the tokenizer or the text tower's configuration is not on this machine."""
    value = configuration(files)
    text = value["model_cfg"]["text_cfg"] = dict(value["model_cfg"].get("text_cfg", {}))
    with tempfile.TemporaryDirectory(prefix="mmsearch-model-") as name:
        folder = Path(name)
        if text.get("hf_tokenizer_name"):
            source = _tokenizer_folder(files, str(text["hf_tokenizer_name"]))
            for file in (*TOKENIZER_FILES, CONFIG):
                if (source / file).is_file():
                    shutil.copyfile(source / file, folder / file)
        if text.get("hf_model_name"):
            (folder / "text").mkdir()
            shutil.copyfile(_text_config(files, str(text["hf_model_name"])), folder / "text" / CONFIG)
            text["hf_model_name"] = str(folder / "text")
        (folder / OPEN_CLIP_CONFIG).write_text(json.dumps(value), "utf-8")
        yield folder, value["model_cfg"]


def _tokenizer_folder(files: ModelFiles, repo: str) -> Path:
    """Where a model's tokenizer is: with the weights of a folder that the user named, else in the repository that its
    configuration names, else with the weights."""
    own = files.folder or files.weights.parent
    named = _cached(repo, TOKENIZER_FILES)
    choices = (own, named) if files.name.startswith("local-dir:") else (named, own)
    for folder in choices:
        if folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES):
            return folder
    raise ModelError(f"the tokenizer of {files.name} is not here ({repo}); fetch it with: {_fetch(files, repo)}")


def _text_config(files: ModelFiles, repo: str) -> Path:
    folder = _cached(repo, (CONFIG,))
    for place in (folder, Path(repo).expanduser(), files.folder or files.weights.parent):
        if place is not None and (place / CONFIG).is_file():
            return place / CONFIG
    raise ModelError(
        f"the configuration of the text tower of {files.name} is not here ({repo}); fetch it with: {_fetch(files, repo)}"
    )


def _fetch(files: ModelFiles, repo: str) -> str:
    by_name = files.tag is not None or files.name.startswith("hf-hub:")
    return f"mmsearch models pull {files.name}" if by_name else f"hf download {repo}"


def _cached(repo: str, names: tuple[str, ...]) -> Path | None:
    """The folder of the hub's cache that has one of some files of a repository."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in names:
        try:
            found = try_to_load_from_cache(repo, name)
        except HFValidationError:
            return None  # not a repository's name: a path
        if isinstance(found, str):
            return Path(found).parent
    return None
