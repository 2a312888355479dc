"""A text tower in ONNX Runtime: what answers a query without importing torch or open_clip.

`export_text_tower` writes one folder for each model in the cache; `TextTower.find` opens it. The words lie beside the graph
(`retrieval.models.word_table`). The other weights are 8-bit where that keeps the embeddings within cosine 0.999 of the
original, and float32 otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError
from retrieval.models.exported import exported_folder
from retrieval.models.tokens import TextTokenizer
from retrieval.models.towers import towers_folder
from retrieval.models.word_table import WordTable, save_words, text_module, word_embedding
from retrieval.types import ModelSpec

if TYPE_CHECKING:
    from retrieval.models.loading import LoadedModel

FORMAT = 4
# Everyday sentences of different lengths, on which an exported tower must agree with its original.
PROBES = (
    "a dog",
    "two children playing football on a wet field",
    "a red car parked in front of an old stone house",
    "People sitting around a table at night, laughing",
    "a close-up photo of a slice of lemon cake on a white plate with a fork and some mint leaves beside it",
    "1998",
    "snow",
    "an aerial view of a harbour with many small boats",
)


class TextTower:
    """Texts to `(n, d) float32`, unit rows, on the CPU."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = os.cpu_count() or 1
        # The graph was optimised when it was exported; doing it again on every start costs more than it saves.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.tokenizer = TextTokenizer.open(folder)
        self._words = WordTable.open(folder)
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "text.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public parent
            raise ModelError(f"{folder}: cannot read the exported text tower: {error}") from error
        self._inputs = [given.name for given in self._session.get_inputs()]

    @staticmethod
    def find(spec: ModelSpec) -> TextTower | None:
        """The tower exported for a model, if there is one."""
        folder = tower_folder(spec.name, spec.architecture, spec.weights_sha256)
        return TextTower(folder) if (folder / "tower.json").is_file() else None

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`(n, d) float32`, unit rows."""
        rows = []
        for ids in self.tokenizer.encode(texts)[:, None]:
            given = {"ids": ids}
            if self._words is not None:
                given["words"] = self._words.take(ids)
            rows.append(self._session.run(None, {name: given[name] for name in self._inputs})[0])
        return np.concatenate(rows).astype(np.float32)


def tower_folder(name: str, architecture: str, sha256: str) -> Path:
    """Where the tower of a model is, or would be."""
    return exported_folder("text", FORMAT, name, architecture, sha256)


def export_text_tower(loaded: LoadedModel) -> Path:
    """Write the text tower of a float32 model on the CPU to the cache; returns its folder.

    Raises `ModelError` when the exported tower does not agree with the original.
    """
    import torch

    spec = loaded.spec
    final = tower_folder(spec.name, spec.architecture, spec.weights_sha256)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=final.parent))
    try:
        ids = torch.from_numpy(loaded.tokenizer.encode(PROBES))
        plain = scratch / "float.onnx"
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            embedding = word_embedding(loaded.model, ids)
            tower = text_module(loaded.model, embedding)
            wanted = torch.cat([tower(row[None]) for row in ids]).numpy()
            torch.onnx.export(
                tower,
                (ids[:1],) if embedding is None else (ids[:1], embedding(ids[:1])),
                str(plain),
                input_names=["ids"] if embedding is None else ["ids", "words"],
                output_names=["embedding"],
                opset_version=17,
                dynamo=False,
            )
        loaded.tokenizer.save(scratch)
        if embedding is not None:
            save_words(embedding, scratch, towers_folder(spec.name, spec.architecture, spec.weights_sha256))
        precision, cosine = _finish(scratch, plain, wanted)
        (scratch / "tower.json").write_text(
            json.dumps({"format": FORMAT, "name": spec.name, "precision": precision, "cosine": cosine}), "utf-8"
        )
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def _finish(folder: Path, plain: Path, wanted: NDArray[np.float32]) -> tuple[str, float]:
    """Optimise and quantise `plain` to `text.onnx`, choosing the smallest form that agrees with `wanted`."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "basic.onnx")
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    plain.unlink()
    small = folder / "int8.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(folder / "basic.onnx", small, per_channel=True, weight_type=QuantType.QInt8)
    cosine = 0.0
    for precision, file in (("int8", small), ("fp32", folder / "basic.onnx")):
        extended = onnxruntime.SessionOptions()
        extended.log_severity_level = 3
        extended.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        extended.optimized_model_filepath = str(folder / "text.onnx")
        onnxruntime.InferenceSession(str(file), extended, providers=["CPUExecutionProvider"])
        cosine = float((TextTower(folder).encode_texts(PROBES) * wanted).sum(1).min())
        if cosine >= 0.999:
            (folder / "basic.onnx").unlink()
            small.unlink(missing_ok=True)
            return precision, round(cosine, 6)
    raise ModelError(f"the exported text tower differs from its original (cosine {cosine:.4f})")
