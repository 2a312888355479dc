"""From a model's NAME to files on this machine: caches, downloads, and the identity of weights.

A cached model never touches the network. Only `download` does, and `auto` asks for it only after the hub has answered
within three seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from retrieval.errors import ModelChoiceError, ModelError
from retrieval.files import write_atomically
from retrieval.models.catalog import DEFAULT, DEFAULT_BEFORE, curated
from retrieval.settings import chosen_model, config_file

NETWORK_WAIT = 3.0
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
MINI = Path(__file__).with_name("mini")


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model's files. Exactly one of `tag` (open_clip's preprocessing for it) and `folder` may be set.

    `notice` is a line for the user where the name asked for something else than what was found.
    """

    name: str
    architecture: str
    weights: Path
    tag: str | None = None
    folder: Path | None = None
    notice: str | None = None


def cache_dir() -> Path:
    """Where mmsearch keeps what it can make again: `MMSEARCH_CACHE`, else the system's cache folder."""
    given = os.environ.get("MMSEARCH_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("mmsearch", appauthor=False)


def resolve(name: str, default: str = DEFAULT) -> ModelFiles:
    """The files of a model that is here already, or for `auto` those of `default` if it is here or can be fetched, else those
    of the default of before, else `mini`; where the user has chosen a default (`retrieval.settings`), `auto` means that.

    Raises `ModelError` for an unknown name, a missing file, or a model that is not in the cache.
    """
    if name == "auto":
        chosen = chosen_model() if default == DEFAULT else None
        if chosen is not None:
            return _resolve_chosen(chosen)
        return _resolve_auto(default)
    if name == "mini":
        return ModelFiles(name="mini", architecture="ConvCoCa", weights=_weights_in(MINI, "mini"), folder=MINI)
    if name.startswith("local-dir:"):
        return _resolve_folder(name, Path(name.removeprefix("local-dir:")).expanduser())
    if name.startswith("hf-hub:"):
        weights_file = _cached_weights(name.removeprefix("hf-hub:"))
        if weights_file is None:
            raise ModelError(f"{name} is not in the cache; fetch it with: mmsearch models pull {name}")
        return _resolve_folder(name, weights_file.parent)
    if "@" in name:
        architecture, _, file = name.partition("@")
        weights = Path(file).expanduser()
        if weights.suffix not in WEIGHT_SUFFIXES:
            raise ModelChoiceError(f"{weights}: weights must be one of {', '.join(WEIGHT_SUFFIXES)}")
        if not weights.is_file():
            raise ModelChoiceError(f"{weights}: no such weights file")
        _remembered(architecture, lambda: known_architecture(architecture))
        return ModelFiles(name=f"{architecture}@{weights.resolve()}", architecture=architecture, weights=weights)
    repo = hub_repo(name)
    weights_file = _cached_weights(repo)
    if weights_file is None:
        raise ModelError(f"{name} is not in the cache; fetch it with: mmsearch models pull {name}")
    architecture, _, tag = name.rpartition("/")
    return ModelFiles(name=name, architecture=architecture, weights=weights_file, tag=tag)


def default_here() -> str:
    """What `auto` means for search with what is on this machine: nothing is fetched."""
    here = (name for name in (DEFAULT, DEFAULT_BEFORE) if is_cached(name))
    return chosen_model() or next(here, "mini")


def has_decoder(files: ModelFiles) -> bool:
    """Whether a model can re-rank and write captions; looks at its configuration only."""
    if files.folder is None:
        return files.architecture.startswith("coca_")
    file, key = ("config.json", "model") if files.architecture == "ConvCoCa" else ("open_clip_config.json", "model_cfg")
    try:
        config = json.loads((files.folder / file).read_text("utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{files.folder / file} cannot be read: {error}") from error
    return bool(config.get("decoder_layers") or config.get("multimodal_cfg"))


def is_cached(name: str) -> bool:
    """Whether a catalog model's weights are here; looks at files only."""
    entry = curated(name)
    return entry is not None and (entry.repo is None or _cached_weights(entry.repo) is not None)


def hub_repo(name: str) -> str:
    """The repository that holds `ARCH/TAG` or `hf-hub:ORG/REPO`; `ModelError` with the valid choices if there is none."""
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    entry = curated(name)
    if entry is not None:
        if entry.repo is None:
            raise ModelError(f"{name} is part of the package; there is nothing to fetch")
        return entry.repo
    architecture, slash, tag = name.rpartition("/")
    if not slash:
        raise ModelChoiceError(
            f"unknown model {name!r}; use ARCH/TAG, ARCH@FILE, hf-hub:ORG/REPO, local-dir:DIR, mini or auto"
        )
    return _remembered(name, lambda: _published_repo(architecture, tag))


def _published_repo(architecture: str, tag: str) -> str:
    known_architecture(architecture)
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    config = get_pretrained_cfg(architecture, tag)
    if not config:
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise ModelChoiceError(f"{architecture} has no weights called {tag!r}; it has: {tags}")
    hub = str(config.get("hf_hub", "")).rsplit("/", 1)[0]
    if not hub:
        raise ModelError(
            f"{architecture}/{tag} is not published on the hub; download its file and use {architecture}@FILE"
        )
    return hub


def known_architecture(name: str) -> str:
    """The name, where open_clip has such an architecture. Raises `ModelError` with the nearest names."""
    import difflib

    import open_clip

    architectures = open_clip.list_models()
    if name not in architectures:
        near = ", ".join(difflib.get_close_matches(name, architectures, 3)) or "see open_clip.list_models()"
        raise ModelChoiceError(f"open_clip has no architecture {name!r}; near it: {near}")
    return name


def download(name: str) -> Path:
    """Fetch a model's weights, configuration and tokenizer into the hub's cache, with a bar, resuming what is there.

    Raises `ModelError` in one line when the hub cannot be reached.
    """
    repo = hub_repo(name)
    if not hub_answers():
        raise ModelError(f"cannot reach {_hub()[0]} within {NETWORK_WAIT:.0f} s; check the network and try again")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    from retrieval.models.architecture import CONFIG, OPEN_CLIP_CONFIG, TOKENIZER_FILES, configuration, other_repos

    def fetch(repo: str, wanted: set[str]) -> None:
        for file in sorted(wanted):
            huggingface_hub.hf_hub_download(repo, file)

    try:
        listed = set(huggingface_hub.list_repo_files(repo))
        chosen = next((file for file in _WEIGHT_FILES if file in listed), None)
        if chosen is None:
            raise ModelError(f"{repo} holds no weights that can be loaded safely (safetensors or a plain state dict)")
        small = {*TOKENIZER_FILES, CONFIG}
        fetch(repo, {OPEN_CLIP_CONFIG, *small} & listed)
        weights = Path(huggingface_hub.hf_hub_download(repo, chosen))
        architecture, _, tag = name.rpartition("/")
        by_repo = name.startswith("hf-hub:")
        files = ModelFiles(
            name=name, architecture=architecture, weights=weights, tag=None if by_repo else tag,
            folder=weights.parent if by_repo else None,
        )  # fmt: skip
        for other in sorted(other_repos(configuration(files)["model_cfg"]) - {repo}):
            fetch(other, small & set(huggingface_hub.list_repo_files(other)))
        return weights
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot fetch {repo}: {reason}; run the same command again to resume") from error


def hub_answers() -> bool:
    """Whether a connection to the hub opens within three seconds, name look-up included."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    host, port = _hub()
    answered = threading.Event()

    def knock() -> None:
        try:
            with socket.create_connection((host, port), timeout=NETWORK_WAIT):
                answered.set()
        except OSError:
            pass
        finally:
            done.set()

    # A name look-up has no timeout of its own, so it runs aside and is left behind when it takes too long.
    done = threading.Event()
    threading.Thread(target=knock, daemon=True).start()
    done.wait(NETWORK_WAIT)
    return answered.is_set()


def weights_sha256(file: Path) -> str:
    """The SHA-256 of a weights file. Remembered by path, size and time of change: hashing 600 MB takes a second."""
    stat = file.stat()

    def digest() -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    return _remembered(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}", digest)


def _remembered(key: str, find: Callable[[], str]) -> str:
    """What `find` found for a key once, in this or another run. Finding means to read a large file, or to import open_clip."""
    memory = cache_dir() / "weights.json"
    try:
        found = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        found = {}
    if key in found:
        return str(found[key])
    value = find()
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({**found, key: value}, indent=1).encode())
    except OSError:
        pass  # Only a shortcut: without it the next run finds it again.
    return value


def _hub() -> tuple[str, int]:
    parts = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    return parts.hostname or "huggingface.co", parts.port or (80 if parts.scheme == "http" else 443)


def _resolve_chosen(name: str) -> ModelFiles:
    try:
        return resolve(name)
    except ModelError as error:
        raise ModelError(
            f"{error} (it is the default that {config_file()} names; `mmsearch models use auto` takes that back)"
        ) from error


def _resolve_auto(default: str) -> ModelFiles:
    if is_cached(default):
        return resolve(default)
    if hub_answers():
        try:
            download(default)
            return resolve(default)
        except ModelError:
            pass
    if default == DEFAULT and is_cached(DEFAULT_BEFORE):
        return replace(
            resolve(DEFAULT_BEFORE),
            notice=f"made by {DEFAULT_BEFORE}, which is here: {DEFAULT} is not, and cannot be fetched; "
            f"better, when online: mmsearch models pull {DEFAULT}",
        )
    mini = resolve("mini")
    # Fetched later, it serves descriptions at once; an index stays on the model that made it.
    stays = f"; an index made by mini stays on mini until: mmsearch index FOLDER --model {default}"
    return ModelFiles(
        name=mini.name,
        architecture=mini.architecture,
        weights=mini.weights,
        folder=mini.folder,
        notice=f"made by the small built-in model mini: {default} is not here and cannot be fetched; "
        f"better, when online: mmsearch models pull {default}{stays if default == DEFAULT else ''}",
    )


def _resolve_folder(name: str, folder: Path) -> ModelFiles:
    if not folder.is_dir():
        raise ModelChoiceError(f"{folder}: no such model folder")
    shown = f"local-dir:{folder.resolve()}" if name.startswith("local-dir:") else name
    if (folder / "tokenizer_rules.json").is_file():
        # A relative of `mini`, in its own format.
        return ModelFiles(name=shown, architecture="ConvCoCa", weights=_weights_in(folder, name), folder=folder)
    if not (folder / "open_clip_config.json").is_file():
        raise ModelChoiceError(f"{folder}: has no open_clip_config.json")
    return ModelFiles(name=shown, architecture=folder.name, weights=_weights_in(folder, name), folder=folder)


def _weights_in(folder: Path, name: str) -> Path:
    for file in _WEIGHT_FILES:
        if (folder / file).is_file():
            return folder / file
    raise ModelError(f"{name}: no weights in {folder}; expected one of {', '.join(_WEIGHT_FILES)}")


def _cached_weights(repo: str) -> Path | None:
    import huggingface_hub

    for file in _WEIGHT_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repo, file)
        if isinstance(cached, str):
            return Path(cached)
    return None
