"""Models: every form of NAME from real files in their real formats, precision, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from retrieval.errors import ModelError
from retrieval.models import weights as wt
from retrieval.models.catalog import CURATED, DEFAULT, DEFAULT_BEFORE, curated
from retrieval.models.encoder import Encoder
from retrieval.models.loading import _apply_precision, load_model
from retrieval.models.preprocess import preprocessing
from retrieval.models.text_tower import PROBES, TextTower, export_text_tower
from tests.conftest import picture

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small CLIP as open_clip saves one: a folder with configuration and weights, and the same weights as `.pt`.

    Its architecture is registered with open_clip under a name of its own.
    """
    import open_clip

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "mmsearch-test-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "mmsearch-test-tiny.json")
    torch.manual_seed(5)
    model = open_clip.create_model("mmsearch-test-tiny")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    published = folder / "published"
    published.mkdir()
    save_file(state, published / "open_clip_model.safetensors")
    (published / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": PIXELS}))
    torch.save(state, folder / "tiny.pt")
    yield folder
    open_clip.factory._MODEL_CONFIG_PATHS.clear()
    open_clip.factory._rescan_model_configs()
    (folder / "mmsearch-test-tiny.json").unlink()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in the hub's own layout."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(hub: Path, repo: str, files: dict[str, Path]) -> None:
    base = hub / ("models--" + repo.replace("/", "--"))
    snapshot = base / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("0123456789abcdef")
    for name, file in files.items():
        shutil.copyfile(file, snapshot / name)


def embeddings(encoder: Encoder) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    images = encoder.encode_images([picture(n, 40, 40) for n in range(3)])
    return images, encoder.encode_texts(["a dog", "two cats on a wall"])


def test_every_form_of_name_loads_the_same_weights(tiny: Path, hub: Path) -> None:
    import open_clip

    published = tiny / "published"
    publish(hub, "someone/tiny", {file.name: file for file in published.iterdir()})
    forms = [f"local-dir:{published}", "hf-hub:someone/tiny"]
    first = Encoder.load(forms[0], "cpu", "fp32")
    assert first.spec.mean == (0.4, 0.5, 0.6)
    assert (first.spec.resize_mode, first.spec.interpolation, first.spec.dim) == ("squash", "bilinear", 32)
    other = Encoder.load(forms[1], "cpu", "fp32")
    plain = Encoder.load(f"mmsearch-test-tiny@{tiny / 'tiny.pt'}", "cpu", "fp32")
    safe = Encoder.load(f"mmsearch-test-tiny@{published / 'open_clip_model.safetensors'}", "cpu", "fp32")
    assert plain.spec.resize_mode == "shortest"
    texts = embeddings(first)[1]
    for encoder in (other, plain, safe):
        assert np.allclose(embeddings(encoder)[1], texts, atol=1e-6)
    assert np.array_equal(embeddings(first)[0], embeddings(other)[0])
    assert np.allclose(embeddings(plain)[0], embeddings(safe)[0])
    model = open_clip.create_model("mmsearch-test-tiny", pretrained=str(tiny / "tiny.pt")).eval()
    with torch.inference_mode():
        own = model.encode_text(open_clip.get_tokenizer("mmsearch-test-tiny")(["a dog"]), normalize=True)
    assert np.allclose(own.numpy(), texts[:1], atol=1e-5)


def test_arch_and_tag_come_from_the_cache_with_the_tags_preprocessing(
    tiny: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip.pretrained as table

    entry = {"hf_hub": "someone/tagged/", **PIXELS}
    monkeypatch.setitem(table._PRETRAINED, "mmsearch-test-tiny", {"some_tag": entry})
    with pytest.raises(ModelError, match=r"mmsearch models pull mmsearch-test-tiny/some_tag"):
        wt.resolve("mmsearch-test-tiny/some_tag")
    publish(hub, "someone/tagged", {"open_clip_model.safetensors": tiny / "published" / "open_clip_model.safetensors"})
    encoder = Encoder.load("mmsearch-test-tiny/some_tag")
    assert (encoder.spec.resize_mode, encoder.spec.std) == ("squash", (0.2, 0.25, 0.3))
    with pytest.raises(ModelError, match="it has: some_tag"):
        wt.resolve("mmsearch-test-tiny/other")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nonsense", "unknown model"),
        ("ViT-B-33/openai", "near it: ViT-B-3"),
        ("ViT-B-32@/no/such/file.pt", "no such weights file"),
        ("ViT-B-32@/etc/passwd", "weights must be one of"),
        ("local-dir:/no/such/folder", "no such model folder"),
        ("hf-hub:no/where", "not in the cache"),
    ],
)
def test_a_name_that_is_wrong_says_what_would_be_right(hub: Path, name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        wt.resolve(name)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/mmsearch-evil",)


def test_a_weights_file_cannot_run_code(tiny: Path, tmp_path: Path) -> None:
    marker = Path("/tmp/mmsearch-evil")
    marker.unlink(missing_ok=True)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "zip.pt")
    for name in ("evil.pt", "zip.pt"):
        with pytest.raises(ModelError):
            load_model(f"mmsearch-test-tiny@{tmp_path / name}")
    assert not marker.exists()


def test_weights_of_another_architecture_or_damaged_are_one_line(tiny: Path, tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tiny / "published" / "open_clip_model.safetensors").read_bytes()[:5000])
    for name in ("other.safetensors", "cut.safetensors"):
        with pytest.raises(ModelError) as caught:
            load_model(f"mmsearch-test-tiny@{tmp_path / name}")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_devices_and_precisions_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelError, match="use auto, cpu, cuda"):
        load_model("mini", "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="use auto or cpu"):
            load_model("mini", "cuda")
    with pytest.raises(ModelError, match="unknown precision"):
        load_model("mini", "cpu", "int4")


def test_bf16_is_taken_only_where_the_embeddings_keep(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.models.loading.cpu_has_bf16", lambda: True)
    loaded = load_model(f"local-dir:{tiny / 'published'}", "cpu", "fp32")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    monkeypatch.setattr("retrieval.models.loading.LEAST_COSINE", 0.9)
    assert _apply_precision(loaded.model, loaded.spec, "cpu", "auto", before.copy) == "bf16"
    assert next(loaded.model.parameters()).dtype == torch.bfloat16
    again = load_model(f"local-dir:{tiny / 'published'}", "cpu", "fp32")
    monkeypatch.setattr("retrieval.models.loading.LEAST_COSINE", 1.1)
    assert _apply_precision(again.model, again.spec, "cpu", "auto", before.copy) == "fp32"
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(640, 480), (31, 90), (224, 224), (225, 224), (500, 333), (100, 100)])
def test_pixels_are_open_clips_own(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=224, resize_mode=mode, interpolation=interpolation)
    photo = picture(3, *size)
    assert torch.equal(preprocessing(config)(photo), image_transform_v2(config, is_train=False)(photo))


def test_the_exported_text_tower_agrees_with_its_model(tiny: Path) -> None:
    loaded = load_model(f"local-dir:{tiny / 'published'}", "cpu", "fp32")
    export_text_tower(loaded)
    tower = TextTower.find(loaded.spec)
    assert tower is not None
    texts = [*PROBES, "x", "word " * 500, "Zürich & “quotes” 🐕"]
    wanted = Encoder.load(f"local-dir:{tiny / 'published'}").encode_texts(texts)
    assert float((tower.encode_texts(texts) * wanted).sum(1).min()) > 0.99


def test_auto_without_a_network_is_mini_at_once_and_says_so(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    found = wt.resolve("auto")
    assert time.monotonic() - began < 1
    assert found.name == "mini"
    assert found.notice is not None
    assert f"mmsearch models pull {DEFAULT}" in found.notice


def test_a_network_that_never_answers_costs_three_seconds(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    fill = [socket.socket() for _ in range(3)]
    for one in fill:
        one.setblocking(False)
        one.connect_ex(silent.getsockname())
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
    began = time.monotonic()
    assert wt.resolve("auto").name == "mini"
    assert time.monotonic() - began < wt.NETWORK_WAIT + 2
    with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1"):
        wt.download(DEFAULT)
    for one in (*fill, silent):
        one.close()


def test_auto_takes_the_default_when_it_is_cached_and_asks_no_network(
    tiny: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("retrieval.models.weights.hub_answers", lambda: pytest.fail("asked the network"))
    entry = curated(DEFAULT)
    assert entry is not None
    assert entry.repo is not None
    publish(hub, entry.repo, {"open_clip_model.safetensors": tiny / "published" / "open_clip_model.safetensors"})
    found = wt.resolve("auto")
    assert (found.name, found.notice, found.tag) == (DEFAULT, None, "webli")


def test_auto_without_a_network_takes_the_default_of_before_where_that_is_here(tiny: Path, hub: Path) -> None:
    entry = curated(DEFAULT_BEFORE)
    assert entry is not None and entry.repo is not None
    publish(hub, entry.repo, {"open_clip_model.safetensors": tiny / "published" / "open_clip_model.safetensors"})
    found = wt.resolve("auto")
    assert found.name == DEFAULT_BEFORE
    assert found.notice is not None and f"mmsearch models pull {DEFAULT}" in found.notice


def test_what_is_fetched_holds_the_tokenizer_and_the_text_tower_of_other_repositories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them a model could be used online alone: its libraries would ask the network for each."""
    name = "roberta-ViT-B-32/laion2b_s12b_b32k"
    listed = {
        wt.hub_repo(name): ["README.md", "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
        "roberta-base": ["config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json", "README.md"],
    }  # fmt: skip
    fetched: list[tuple[str, str]] = []

    def fetch(repo: str, file: str) -> str:
        fetched.append((repo, file))
        return str(tmp_path / repo.replace("/", "--") / file)

    monkeypatch.setattr("retrieval.models.weights.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.list_repo_files", listed.__getitem__)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert wt.download(name).name == "open_clip_model.safetensors"
    own = wt.hub_repo(name)
    assert sorted(fetched) == sorted(
        [(own, "open_clip_config.json"), (own, "open_clip_model.safetensors")]
        + [("roberta-base", file) for file in ("config.json", "merges.txt", "tokenizer.json", "vocab.json")]
    )


def test_the_catalogue_agrees_with_open_clip_and_names_no_research_weights_by_default() -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    for model in CURATED:
        if model.repo is None:
            continue
        architecture, _, tag = model.name.rpartition("/")
        assert get_pretrained_cfg(architecture, tag)["hf_hub"].strip("/") == model.repo
        assert open_clip.get_model_config(architecture)["embed_dim"] == model.dim
    default = curated(DEFAULT)
    assert default is not None
    assert default.license == "Apache-2.0"
    for model in CURATED:
        assert ("research" in model.license) == (model.role in ("research only", "embedded"))


def test_hashes_are_remembered_and_follow_the_file(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    first = wt.weights_sha256(file)
    assert wt.weights_sha256(file) == first
    file.write_bytes(b"two!")
    assert wt.weights_sha256(file) != first
