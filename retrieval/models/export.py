"""Export: once for each model, what a CPU runs without torch. `python -m retrieval.models.export NAME` is a process of its own,
whose memory ends with it.

The query's text tower goes to ONNX Runtime with 8-bit weights (`retrieval.models.text_tower`), both towers go to OpenVINO with
half-precision weights (`retrieval.models.towers`). Each must agree with the original, in float32 by torch, to cosine 0.999: on
everyday sentences, and on the photos in `probes/`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from media.child import module_command, module_environment
from retrieval.errors import MmsearchError, ModelError
from retrieval.models.processor import cpu_has_bf16
from retrieval.models.text_tower import PROBES, export_text_tower, tower_folder
from retrieval.models.towers import FORMAT, Towers, towers_folder
from retrieval.models.weights import ModelFiles, resolve, weights_sha256
from retrieval.models.word_table import save_words, text_module, word_embedding

if TYPE_CHECKING:
    from retrieval.models.loading import LoadedModel

# The least cosine between an embedding by an exported tower and the original's.
LEAST_COSINE = 0.999
# What half-precision weights must keep where the towers compute in float32; else they are written in full.
LEAST_EXACT = 0.9999
PHOTOS = Path(__file__).with_name("probes")

Floats = NDArray[np.float32]


def ensure_exported(name: str | ModelFiles) -> list[str]:
    """Export what is missing of a model in a child process; returns lines that say what could not be exported, and why. Raises
    `ModelError` for a model that is not here."""
    files = resolve(name) if isinstance(name, str) else name
    digest = weights_sha256(files.weights)
    here = (tower_folder(files.name, files.architecture, digest), towers_folder(files.name, files.architecture, digest))
    if all((folder / file).is_file() for folder, file in zip(here, ("tower.json", "towers.json"), strict=True)):
        return []
    if (here[1] / "refused.txt").is_file() and (here[0] / "tower.json").is_file():
        return []
    done = subprocess.run(
        module_command("retrieval.models.export", files.name),
        capture_output=True,
        text=True,
        check=False,
        env=module_environment(),
    )
    if done.returncode == 0:
        return []
    return [line for line in done.stderr.splitlines() if line.startswith(("text queries", "images and texts"))] or [
        f"{files.name} could not be exported: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    ]


def export_towers(loaded: LoadedModel) -> Path:
    """Write both towers of a float32 model on the CPU to the cache, for OpenVINO; returns their folder.

    Raises `ModelError` where a tower cannot be converted or does not agree with the original.
    """
    if not loaded.plain_pixels:
        raise ModelError("its images are prepared in a way of their own")
    spec = loaded.spec
    final = towers_folder(spec.name, spec.architecture, spec.weights_sha256)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=final.parent))
    try:
        images, texts, graphs = _convert(loaded, scratch)
        loaded.tokenizer.save(scratch)
        stored = {"format": FORMAT, "spec": spec.to_json(), "precision": "fp32", "cosine": 0.0}
        (scratch / "towers.json").write_text(json.dumps(stored), "utf-8")
        for half in (True, False):
            _write(graphs, scratch, half=half)
            cosine = _agreement(Towers(scratch, "fp32"), images, texts)
            if cosine >= LEAST_EXACT:
                break
        if cosine < LEAST_COSINE:
            raise ModelError(f"the exported towers differ from their original (cosine {cosine:.4f})")
        stored.update(cosine=round(cosine, 6))
        if cpu_has_bf16():
            cosine = _agreement(Towers(scratch, "bf16"), images, texts)
            if cosine >= LEAST_COSINE:
                stored.update(precision="bf16", cosine=round(cosine, 6))
        (scratch / "towers.json").write_text(json.dumps(stored), "utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def probe_photos() -> list[Any]:
    """Photos of different kinds, RGB, on which an exported tower must agree with its original."""
    from PIL import Image

    photos = []
    for file in sorted(PHOTOS.glob("*.jpg")):
        with Image.open(file) as photo:
            photos.append(photo.convert("RGB"))
    return photos


def _write(graphs: dict[str, Any], folder: Path, *, half: bool) -> None:
    """Write the graphs, and forget what was compiled of others in their place."""
    import openvino

    for compiled in folder.glob("compiled-*"):
        shutil.rmtree(compiled)
    for name, graph in graphs.items():
        openvino.save_model(graph, str(folder / f"{name}.xml"), compress_to_fp16=half)


def _convert(loaded: LoadedModel, folder: Path) -> tuple[Floats, Floats, dict[str, Any]]:
    """The original's embeddings of the probes, images and texts, and the graphs of both towers by name; the words that the text
    tower is given are in `folder` then."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import torch

    class Images(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.inner = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.inner.encode_image(pixels), dim=-1)

    spec = loaded.spec
    pixels = torch.stack([loaded.preprocess(photo) for photo in probe_photos()])
    ids = torch.from_numpy(loaded.tokenizer.encode(PROBES))
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.inference_mode():
        embedding = word_embedding(loaded.model, ids)
    texts, shapes = [ids], [[-1, ids.shape[1]]]
    if embedding is not None:
        save_words(embedding, folder, tower_folder(spec.name, spec.architecture, spec.weights_sha256))
        texts.append(embedding(ids).detach())
        shapes.append([-1, ids.shape[1], embedding.embedding_dim])
    towers = {
        "image": (Images(loaded.model).eval(), [pixels], [[-1, 3, spec.image_size, spec.image_size]]),
        "text": (text_module(loaded.model, embedding), texts, shapes),
    }
    wanted, graphs = [], {}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        for tower, given, _ in towers.values():
            wanted.append(np.concatenate([tower(row[None]).numpy() for row in given[0]]))
        _merge_branches(loaded.model)
        for name, (tower, given, shapes_of_given) in towers.items():
            try:
                graphs[name] = openvino.convert_model(
                    tower,
                    example_input=tuple(example[:2] for example in given),
                    input=[openvino.PartialShape(shape) for shape in shapes_of_given],
                )
            except Exception as error:  # whatever tracing a module that it does not know may raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ModelError(f"its {name} tower cannot be converted: {reason[:200]}") from error
    return wanted[0], wanted[1], graphs


def _merge_branches(model: Any) -> None:
    """Make one convolution of the branches that only training needs (MobileCLIP's), where an image tower has such."""
    trunk = getattr(model.visual, "trunk", None)
    if trunk is not None:
        from timm.utils.model import reparameterize_model

        model.visual.trunk = reparameterize_model(trunk, inplace=True)


def _agreement(towers: Towers, images: Floats, texts: Floats) -> float:
    """The least cosine between the towers' embeddings of the probes and the original's, in batches and one by one."""
    pixels = np.stack([towers.preprocess(photo) for photo in probe_photos()])
    rows = [
        (towers.encode_pixels(pixels), images),
        (np.concatenate([towers.encode_pixels(image[None]) for image in pixels[:2]]), images[:2]),
        (towers.encode_texts(PROBES), texts),
        (towers.encode_texts(PROBES[:1]), texts[:1]),
    ]
    return min(float((here * there).sum(1).min()) for here, there in rows)


def main(name: str) -> int:
    """Export what is missing of one model; the program that `ensure_exported` starts."""
    from retrieval.models.loading import load_model

    failed = False
    try:
        files = resolve(name)
        digest = weights_sha256(files.weights)
        loaded = load_model(files, "cpu", "fp32")
    except (MmsearchError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if not (tower_folder(files.name, files.architecture, digest) / "tower.json").is_file():
        try:
            export_text_tower(loaded)
        except (MmsearchError, OSError) as error:
            failed = True
            print(f"text queries will load the whole model: its text tower: {error}", file=sys.stderr)
    folder = towers_folder(files.name, files.architecture, digest)
    if not (folder / "towers.json").is_file():
        try:
            export_towers(loaded)
        except ModelError as error:
            failed = True
            # What cannot be exported today is not tried again by every run.
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "refused.txt").write_text(str(error), "utf-8")
            print(f"images and texts will be embedded by torch: {error}", file=sys.stderr)
        except OSError as error:
            failed = True
            print(f"images and texts will be embedded by torch: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
