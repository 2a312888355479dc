"""Where the exported forms of a model are, in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from retrieval.models.weights import cache_dir


def exported_folder(form: str, version: int, name: str, architecture: str, sha256: str) -> Path:
    """The folder of one exported form of a model.

    Equal weights are not yet the same model: a published tag may use another activation or other pixels than the bare
    architecture. So the name counts, but not where a file of weights lies.
    """
    label = f"{architecture}@" if "@" in name and ":" not in name.partition("@")[0] else name
    digest = hashlib.sha256(f"{label}\0{sha256}".encode()).hexdigest()
    return cache_dir() / form / f"v{version}-{digest[:32]}"
