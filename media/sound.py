"""Speech to cues with faster-whisper, where the extra `asr` is installed and the user has a model."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Protocol

from media import storage
from media.errors import MediaError, ModelChoiceError, ModelError
from media.subtitles import Cue

SOUND_SUFFIXES = frozenset((".mp3", ".wav", ".flac", ".m4a", ".ogg", ".oga", ".opus", ".aac", ".wma"))


class Recogniser(Protocol):
    """What makes cues of a file's sound."""

    def transcribe(self, path: str) -> Iterator[Cue]:
        """The words said in a media file, in order of time. Nothing where nobody speaks. Raises `MediaError` for a file
        whose sound cannot be read."""


class WhisperRecogniser:
    """A Whisper model in CTranslate2's format: a folder, or the name of one that is in the cache.

    Raises `ModelError` where the extra or the model is missing; nothing is downloaded.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            raise ModelError("transcribing needs faster-whisper; install it with: pip install faster-whisper")
        self._asked_for = (model, device)
        place = os.path.expanduser(model)
        if os.sep in model and not os.path.isdir(place):
            raise ModelChoiceError(
                f"the speech model {model}: no such folder; name one that holds a model in CTranslate2 format"
            )
        from faster_whisper import WhisperModel

        try:
            self._model = WhisperModel(
                place, device="cuda" if device.startswith("cuda") else "auto", local_files_only=True
            )
        except Exception as error:  # CTranslate2 and the hub client raise what they like
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the speech model {model!r} cannot be loaded: {reason}; "
                "name the folder of a model in CTranslate2 format"
            ) from error

    def __reduce__(self) -> tuple[type[WhisperRecogniser], tuple[str, str]]:
        """Another process loads its own model, by the same name."""
        return WhisperRecogniser, self._asked_for

    def transcribe(self, path: str) -> Iterator[Cue]:
        """See `Recogniser`; silence is left out by voice activity detection."""
        try:
            segments, _ = self._model.transcribe(storage.source(path), vad_filter=True)
            heard = [
                Cue(start=segment.start, end=segment.end, text=segment.text, kind="speech") for segment in segments
            ]
        except Exception as error:  # PyAV and CTranslate2 alike
            raise MediaError("decode", f"its sound cannot be read: {' '.join(str(error).split())[:150]}") from error
        yield from heard
