"""Exported towers: they embed as the original does, torch stays away, and what cannot be exported falls back and says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from media.child import module_environment
from retrieval.errors import ModelError
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported, export_towers
from retrieval.models.loading import load_model
from retrieval.models.processor import cpu_has_bf16
from retrieval.models.text_tower import PROBES
from retrieval.models.towers import Towers
from retrieval.models.weights import resolve, weights_sha256
from tests.conftest import picture, write_photos

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
SIGLIP = {**PIXELS, "resize_mode": "squash"}


def published(folder: Path, model: dict[str, Any], pixels: dict[str, Any]) -> str:
    """A small model with random weights as open_clip publishes one; returns its name."""
    import open_clip

    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": pixels}))
    torch.manual_seed(5)
    original = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    state = {name: value.contiguous() for name, value in original.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (TINY, PIXELS),
    "quick-gelu": ({**TINY, "quick_gelu": True}, PIXELS),
    "siglip": (
        {
            **TINY,
            "init_logit_bias": -10,
            "custom_text": True,
            "text_cfg": {
                **TINY["text_cfg"], "context_length": 16, "no_causal_mask": True, "pool_type": "last",
                "proj_bias": True, "pad_id": 1,
            },
        },
        SIGLIP,
    ),
    "convolutions": (
        {**TINY, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16}},
        PIXELS,
    ),
    "timm": (
        {
            **TINY,
            "vision_cfg": {
                "timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear",
                "image_size": 64,
            },
        },
        SIGLIP,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_towers_embed_as_the_original(family: str, tmp_path: Path) -> None:
    name = published(tmp_path / family, *FAMILIES[family])
    loaded = load_model(name, "cpu", "fp32")
    before = Encoder.load(name, "cpu", "fp32")
    assert before.running_on == "on cpu in fp32 by torch"
    images, texts = [picture(n, 90, 50) for n in range(5)], [*PROBES, "x", "word " * 300, "Zürich & “quotes” 🐕"]
    wanted = before.encode_images(images), before.encode_texts(texts)
    export_towers(loaded)
    after = Encoder.load(name, "cpu", "fp32")
    assert after.running_on == "on cpu in fp32 by OpenVINO"
    assert after.spec == loaded.spec
    assert np.array_equal(after.preprocess(images[0]), loaded.preprocess(images[0]).numpy())
    for mine, its in zip((after.encode_images(images), after.encode_texts(texts)), wanted, strict=True):
        assert mine.shape == its.shape
        assert float((mine * its).sum(1).min()) >= 0.9999
    embedded = after.encode_images(images)
    after.release()
    assert np.array_equal(after.encode_images(images), embedded)
    automatic = Encoder.load(name, "cpu")
    assert float((automatic.encode_images(images) * wanted[0]).sum(1).min()) >= 0.999
    assert automatic.running_on == f"on cpu in {'bf16' if cpu_has_bf16() else 'fp32'} by OpenVINO"


def test_equal_weights_with_another_activation_have_towers_of_their_own(tmp_path: Path) -> None:
    plain = published(tmp_path / "plain", *FAMILIES["clip"])
    quick = published(tmp_path / "quick", *FAMILIES["quick-gelu"])
    assert weights_sha256(resolve(plain).weights) == weights_sha256(resolve(quick).weights)
    for name in (plain, quick):
        export_towers(load_model(name, "cpu", "fp32"))
    one, other = (Encoder.load(name, "cpu", "fp32").encode_images([picture(1)]) for name in (plain, quick))
    assert not np.allclose(one, other, atol=1e-5)


def test_what_cannot_be_exported_runs_in_torch_and_says_so_once(tmp_path: Path) -> None:
    name = published(tmp_path / "odd", TINY, {**PIXELS, "resize_mode": "longest"})
    (line,) = ensure_exported(name)
    assert line == "images and texts will be embedded by torch: its images are prepared in a way of their own"
    assert ensure_exported(name) == []
    assert "by torch" in Encoder.load(name, "cpu", "fp32").running_on


def test_precisions_that_a_cpu_does_not_have_are_left_to_torch(mini: Encoder) -> None:
    spec = mini.spec
    assert Towers.find("mini", spec.architecture, spec.weights_sha256, "cpu", "fp16") is None
    assert Towers.find("mini", spec.architecture, spec.weights_sha256, "cuda:0", "auto") is None
    assert Towers.find("mini", spec.architecture, "0" * 64, "cpu", "auto") is None


def test_a_damaged_export_is_a_model_error(tmp_path: Path) -> None:
    name = published(tmp_path / "damaged", *FAMILIES["clip"])
    export_towers(load_model(name, "cpu", "fp32"))
    files = resolve(name)
    towers = Towers.find(files.name, files.architecture, weights_sha256(files.weights), "cpu", "fp32")
    assert towers is not None
    folder = towers._folder
    for blob in folder.glob("compiled-*/*"):
        blob.unlink()
    (folder / "image.xml").write_text("<net")
    with pytest.raises(ModelError, match="cannot open the exported image tower"):
        towers.encode_pixels(np.zeros((1, 3, 32, 32), np.float32))


def test_an_export_that_fails_gives_its_reason(tmp_path: Path) -> None:
    name = published(tmp_path / "broken", *FAMILIES["clip"])
    weights = tmp_path / "broken" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (line,) = ensure_exported(name)
    assert line.startswith(f"{name} could not be exported: ")
    assert len(line.splitlines()) == 1


def test_indexing_and_searching_by_image_import_neither_torch_nor_open_clip(mini: Encoder, tmp_path: Path) -> None:
    files = write_photos(tmp_path / "photos", 4)
    (tmp_path / "photos" / "photo0001.txt").write_text("a caption")
    script = """
import sys
from cli.main import main
sys.argv = ["mmsearch", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"torch", "open_clip", "transformers", "openvino_telemetry"} & {name for name in sys.modules if sys.modules[name]}
    assert not heavy, heavy
"""
    index = ["index", str(tmp_path / "photos"), "--model", "mini", "--device", "cpu"]
    for arguments in (
        index,
        index,
        ["search", "--image", str(files[2]), "--index", str(tmp_path / "photos"), "--json"],
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script, *arguments],
            capture_output=True, text=True, check=False, env=module_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[0])
    assert first["path"] == str(files[2])
    assert first["score"] > 0.99
