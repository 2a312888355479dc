"""What a user has chosen once for all: a small TOML file, in the system's place for such or where `MMSEARCH_CONFIG` says."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from retrieval.errors import MmsearchError
from retrieval.files import write_atomically

MODEL = "model"
_KEYS = (MODEL,)


def config_file() -> Path:
    """The file of settings, which need not exist."""
    given = os.environ.get("MMSEARCH_CONFIG")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_config_path("mmsearch", appauthor=False) / "config.toml"


def chosen_model() -> str | None:
    """The NAME of the model for new indexes that the user has chosen; None where there is no choice. Raises `MmsearchError`
    for a file that cannot be understood."""
    file = config_file()
    try:
        values = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MmsearchError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise MmsearchError(f"{file} is no TOML ({error}); mend or delete it") from error
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise MmsearchError(f"{file} has a setting {unknown[0]!r} that is not known; it may have: {', '.join(_KEYS)}")
    model = values.get(MODEL)
    if model is not None and not isinstance(model, str):
        raise MmsearchError(f'{file}: {MODEL} must be a name in quotes, such as {MODEL} = "mini"')
    return model


def choose_model(name: str | None) -> Path:
    """Keep the choice of a model, or with None take it back; what else the file says stays. Returns the file. Raises
    `MmsearchError`."""
    import tomlkit

    file = config_file()
    chosen_model()
    try:
        document = tomlkit.parse(file.read_text("utf-8")) if file.is_file() else tomlkit.document()
        document.pop(MODEL, None)
        if name is not None:
            document[MODEL] = name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, tomlkit.dumps(document).encode())
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {error.strerror}; MMSEARCH_CONFIG names another place") from error
    return file
