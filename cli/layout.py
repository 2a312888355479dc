"""How help is laid out: commands in groups, and a value called by what it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

# Stands for the hyphen before a word that is not wanted, which would be read as an option.
MINUS = "\N{MINUS SIGN}"
_NEGATIVE = re.compile(r'-(?!k\d*$|h$)[^\W\d]|-"')
# What a value is called where its option does not say.
_VALUES = {int: "N", float: "NUMBER", Path: "FILE", str: "TEXT"}


# The options of the commands that have most stand below these headings; the rest come last.
_GROUPED = ("index", "search")
_GROUPS = {
    "What to look for": ("--image", "--not", "--region", "--queries"),
    "What may be found": (
        "--kind", "--after", "--before", "--in", "--camera", "--near", "--min-relevance", "--moments", "--copies",
    ),
    "How many, and in which order": (
        "-k", "--sort", "--match", "--rerank", "--candidates", "--rerank-ms", "--reranker", "--fusion",
    ),
    "What to do with the hits": ("--html", "--explain", "--clip", "--open"),
    "What to index": ("--exclude", "--default-excludes", "--retry-failed", "--reread", "--prune", "--max-pixels"),
    "Videos, speech and text in pictures": (
        "--fps", "--max-frames", "--moment-fusion", "--transcribe", "--asr-model", "--ocr",
    ),
    "The model, and the machine": ("--model", "--change-model", "--device", "--precision", "--batch-size", "--workers"),
}  # fmt: skip


def _group_of(option: Any) -> str:
    return next((heading for heading, names in _GROUPS.items() if set(names) & set(option.opts)), "Options")


class GroupedCommands(TyperGroup):
    """Lists commands below the headings that they were registered with (`rich_help_panel`)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands."""
        groups: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = getattr(command, "rich_help_panel", None)
                groups.setdefault(heading if isinstance(heading, str) else "Commands", []).append((name, command))
        width = max(len(name) for rows in groups.values() for name, _ in rows)
        for heading, rows in groups.items():
            with formatter.section(heading):
                # Names as wide in each group: one column through all of them.
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
                        for name, command in rows
                    ]
                )


class PlainCommand(TyperCommand):
    """Lists what it takes as a person types it: `PATH...`, and no names of types."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Arguments", *_GROUPS, "Options")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "argument":
                record = (f"{parameter.metavar or parameter.name}{'...' if parameter.nargs != 1 else ''}", record[1])
                rows["Arguments"].append(record)
            elif record is not None:
                rows[_group_of(parameter) if self.name in _GROUPED else "Options"].append(record)
        for heading, part in rows.items():
            if part:
                with formatter.section(heading):
                    formatter.write_dl(part)


class LineCommand(PlainCommand):
    """Takes a query line, in which `-people` and `-"red car"` are words that are not wanted, and no options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, [MINUS + arg[1:] if _NEGATIVE.match(arg) else arg for arg in args])


def typed_line(words: Sequence[str]) -> str:
    """The line that the arguments of a `LineCommand` are together. The shell has taken the quotes of an argument of several
    words away: where there are others beside it and it is not wanted, it is a phrase."""
    parts = ["-" + word[1:] if word.startswith(MINUS) else word for word in words]
    if len(parts) > 1:
        parts = [f'-"{part[1:]}"' if part.startswith("-") and " " in part else part for part in parts]
    return " ".join(parts)


def complete_command(app: typer.Typer) -> Any:
    """The command that an application is, each value in its help called by what it is: `N`, `FILE`, `TEXT`, `PATH...`."""
    command = typer.main.get_command(app)
    _name_values(command)
    return command


def _name_values(command: Any) -> None:
    function = inspect.unwrap(command.callback) if command.callback is not None else None
    types = get_type_hints(function) if function is not None else {}
    for parameter in command.params:
        if parameter.metavar is not None or parameter.name not in types:
            continue
        if parameter.param_type_name == "argument":
            parameter.metavar = parameter.name.upper()
        else:
            parameter.metavar = _VALUES.get(_value_type(types[parameter.name]))
    for part in getattr(command, "commands", {}).values():
        _name_values(part)


def _value_type(hint: Any) -> Any:
    """What one value is, of an option that may be missing or repeated."""
    parts = [part for part in get_args(hint) if part is not type(None)]
    return _value_type(parts[0]) if parts else hint
