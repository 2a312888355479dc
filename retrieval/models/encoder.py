"""Encoder: texts and images to unit rows, with the model's own preprocessing and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.models.tokens import TextTokenizer
from retrieval.models.towers import Towers
from retrieval.models.weights import ModelFiles, resolve, weights_sha256
from retrieval.store.manifest import check_model
from retrieval.types import ModelSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.models.loading import LoadedModel


class Encoder:
    """One model: its exported towers on the CPU where they are there, else the whole model in torch. `preprocess` may run on
    any thread once `warm` was called; the encode calls belong to one thread."""

    def __init__(self, files: ModelFiles | str, spec: ModelSpec, device: str, precision: str) -> None:
        self.spec = spec
        self._named = files
        self._wanted = (device, precision)
        self._towers: Towers | None = None
        self._model: LoadedModel | None = None

    def __reduce__(self) -> tuple[type[Encoder], tuple[str, ModelSpec, str, str]]:
        """What travels to another machine is the model's name and what it has to be: its files are looked for there."""
        return Encoder, (self._files.name, self.spec, *self._wanted)

    @cached_property
    def _files(self) -> ModelFiles:
        return resolve(self._named) if isinstance(self._named, str) else self._named

    @staticmethod
    def load(name: str | ModelFiles, device: str = "auto", precision: str = "auto") -> Encoder:
        """Load a model by NAME; raises `ModelError` as `load_model` does."""
        files = resolve(name) if isinstance(name, str) else name
        towers = _towers(files, device, precision)
        if towers is not None:
            encoder = Encoder(files, replace(towers.spec, name=files.name), device, precision)
            encoder._towers = towers
            return encoder
        from retrieval.models.loading import load_model

        loaded = load_model(files, device, precision)
        encoder = Encoder(files, loaded.spec, device, precision)
        encoder._model = loaded
        return encoder

    @staticmethod
    def deferred(files: ModelFiles, made_with: ModelSpec, device: str, precision: str) -> Encoder:
        """The model that an index was made with, loaded when first needed: an unchanged folder then costs only a look.

        Raises `ModelError` now when the weights are not those, and later as `load_model` does.
        """
        digest = weights_sha256(files.weights)
        return Encoder(files, replace(made_with, name=files.name, weights_sha256=digest), device, precision)

    def warm(self) -> None:
        """Load the model if it is not loaded yet; `ModelError` when it is not what `spec` says."""
        if self._towers is None and self._model is None:
            self._towers = _towers(self._files, *self._wanted)
            if self._towers is None:
                self._model = self._load()
            else:
                check_model(self.spec, self._towers.spec)

    def release(self) -> None:
        """Give back the memory of exported towers, which the next use opens again in a moment. A model in torch stays."""
        self._towers = None

    @property
    def loaded(self) -> LoadedModel:
        """The whole model in torch, which a decoder needs, loaded now if it was not yet."""
        if self._model is None:
            self._model = self._load()
        return self._model

    @property
    def running_on(self) -> str:
        """Device, precision and runtime as people read them, or that the model was not needed."""
        if self._towers is not None:
            return f"on cpu in {self._towers.precision} by OpenVINO"
        if self._model is not None:
            return f"on {self._model.device} in {self._model.precision} by torch"
        return "not loaded: nothing to encode"

    def fits(self, text: str) -> bool:
        """Whether the model reads all of a text, and does not cut its end."""
        return self._tokenizer.fits(text)

    def knows(self, text: str) -> bool:
        """Whether the model knows some word of a text."""
        return self._tokenizer.knows(text)

    def preprocess(self, image: Image) -> NDArray[np.float32]:
        """An RGB image to `(3, s, s) float32`, resized, cropped and normalised as the model was trained."""
        self.warm()
        return self._towers.preprocess(image) if self._towers is not None else self.loaded.preprocess(image).numpy()

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Preprocessed images `(3, s, s)` to `(n, d) float32`, unit rows. Raises `FloatingPointError` on NaN."""
        self.warm()
        if self._towers is not None:
            return _unit(self._towers.encode_pixels(np.stack(pixels)))
        import torch

        model = self.loaded.model
        batch = torch.from_numpy(np.stack(pixels)).to(self.loaded.device, next(model.parameters()).dtype)
        with torch.inference_mode():
            return _unit(model.encode_image(batch.contiguous(memory_format=torch.channels_last)).float().cpu().numpy())

    def encode_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        """RGB images to `(n, d) float32`, unit rows."""
        rows = [np.empty((0, self.spec.dim), np.float32)]
        for start in range(0, len(images), batch_size):
            rows.append(self.encode_pixels([self.preprocess(image) for image in images[start : start + batch_size]]))
        return np.concatenate(rows)

    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Texts to `(n, d) float32`, unit rows; a text longer than the model's context is cut."""
        self.warm()
        if self._towers is not None:
            return _unit(self._towers.encode_texts(texts))
        import torch

        rows = [np.empty((0, self.spec.dim), np.float32)]
        for start in range(0, len(texts), batch_size):
            ids = torch.from_numpy(self.loaded.tokenizer.encode(texts[start : start + batch_size]))
            with torch.inference_mode():
                encoded = self.loaded.model.encode_text(ids.to(self.loaded.device))
            rows.append(_unit(encoded.float().cpu().numpy()))
        return np.concatenate(rows)

    @property
    def _tokenizer(self) -> TextTokenizer:
        self.warm()
        return self._towers.tokenizer if self._towers is not None else self.loaded.tokenizer

    def _load(self) -> LoadedModel:
        from retrieval.models.loading import load_model

        loaded = load_model(self._files, *self._wanted)
        check_model(self.spec, loaded.spec)
        return loaded


def _towers(files: ModelFiles, device: str, precision: str) -> Towers | None:
    return Towers.find(files.name, files.architecture, weights_sha256(files.weights), device, precision)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise FloatingPointError("the model gave an embedding that is not finite")
    return np.asarray(rows / norms, np.float32)
