"""Checkpoints of a training run: weights, optimiser and settings, written atomically and refused when they do not fit.

A checkpoint is a safetensors file: nothing in it can run code. Its header carries the settings of the run as JSON;
loading under other settings is an error, not a silent start from the wrong place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class CheckpointError(Exception):
    """The checkpoint does not belong to this run."""


class Diverged(Exception):
    """The loss is no longer a number; the last good checkpoint stands."""


def save_checkpoint(
    file: Path, settings: dict[str, object], step: int, model: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write model, optimiser state and `settings` to `file` through a temporary name."""
    tensors: dict[str, Tensor] = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for number, entry in optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            if torch.is_tensor(value):
                tensors[f"optim.{number}.{name}"] = value.contiguous()
    header = {"settings": json.dumps(settings, sort_keys=True), "step": str(step)}
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".partial")
    save_file(tensors, scratch, metadata=header)
    os.replace(scratch, file)


def load_checkpoint(file: Path, settings: dict[str, object], model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore a run and return its step; `CheckpointError` names the first setting that differs."""
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata() or {}
        saved = json.loads(header.get("settings", "{}"))
        for key in sorted(set(saved) | set(settings)):
            if saved.get(key) != settings.get(key):
                raise CheckpointError(
                    f"{file}: made with {key}={saved.get(key)!r}, this run has {key}={settings.get(key)!r}; "
                    "give another --work folder or the same settings"
                )
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    state = optimiser.state_dict()
    restored: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optim."):
            _, number, key = name.split(".", 2)
            restored.setdefault(int(number), {})[key] = value
    state["state"] = restored
    optimiser.load_state_dict(state)
    return int(header["step"])
