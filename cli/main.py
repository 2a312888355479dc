"""`mmsearch`: the commands put together, and every failure as one line."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from cli.layout import GroupedCommands, LineCommand, PlainCommand, complete_command
from cli.terminal import say_hints
from media.names import valid_text
from retrieval.errors import MmsearchError, UsageError

FIND, READ, KEEP, MEASURE = (
    "Index and search",
    "Pictures and films in words",
    "Look after an index",
    "Models and figures",
)
# Each command's heading and where its function is. Imported when it is asked for: one command needs not wait for all.
_COMMANDS = {
    "index": (FIND, "cli.index", "index_command"),
    "search": (FIND, "cli.search", "search_command"),
    "serve": (FIND, "cli.serve", "serve_command"),
    "mcp": (FIND, "cli.mcp", "mcp_command"),
    "describe": (READ, "cli.describe", "describe_command"),
    "summarize": (READ, "cli.summarize", "summarize_command"),
    "explain": (READ, "cli.explain", "explain_command"),
    "ask": (READ, "cli.ask", "ask_command"),
    "duplicates": (KEEP, "cli.duplicates", "duplicates_command"),
    "status": (KEEP, "cli.admin", "status_command"),
    "failures": (KEEP, "cli.admin", "failures_command"),
    "compact": (KEEP, "cli.admin", "compact_command"),
    "export": (KEEP, "cli.export", "export_command"),
    "doctor": (MEASURE, "cli.doctor", "doctor_command"),
}
# Commands that have commands of their own.
_GROUPS = {"models": (MEASURE, "cli.model", "app"), "bench": (MEASURE, "cli.bench", "app")}


def application(command: str | None = None) -> typer.Typer:
    """The whole application; with the name of a `command`, with that one only, where there is one of that name."""
    app = typer.Typer(
        name="mmsearch",
        cls=GroupedCommands,
        help="Search folders of photos, videos and texts by meaning, on this machine.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )
    app.callback(result_callback=_say_hints)(_root)
    every = command not in _COMMANDS and command not in _GROUPS
    for name, (heading, module, function) in _COMMANDS.items():
        if every or name == command:
            kind = LineCommand if name == "search" else PlainCommand
            app.command(name, cls=kind, rich_help_panel=heading)(getattr(import_module(module), function))
    for name, (heading, module, attribute) in _GROUPS.items():
        if every or name == command:
            app.add_typer(getattr(import_module(module), attribute), name=name, rich_help_panel=heading)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("mmsearch"))
        raise typer.Exit


def _say_hints(_: object, **__: object) -> None:
    say_hints()


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Search folders of photos, videos and texts by meaning, on this machine."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 a failure told in one line, 2 wrong usage, told in one line too."""
    # Importing torch makes hundreds of thousands of lasting objects, which collections would walk again and again.
    gc.set_threshold(100_000, 50, 100)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv = [sys.argv[0], *(argument for argument in sys.argv[1:] if argument != "--debug")]
    # Pillow warns of odd metadata in files that it reads well: nobody can act on that.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        command = complete_command(application(sys.argv[1] if sys.argv[1:] else None))
        ended = command(prog_name="mmsearch", standalone_mode=False)
        raise SystemExit(ended if isinstance(ended, int) else 0)
    except typer.TyperException as error:
        _fail_usage(error)
    except typer.Abort as error:
        # Typer makes this of an early end of any file, too.
        if isinstance(error.__cause__, EOFError):
            _fail_unexpected(error.__cause__, debug)
        _fail("stopped before anything was done")
    except MmsearchError as error:
        if debug:
            traceback.print_exc()
        _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # The reader of our output went away (`mmsearch search … | head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        _fail_unexpected(error, debug)


def _fail_unexpected(error: BaseException, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    _fail(f"unexpected {type(error).__name__}: {text} (run with --debug for the whole story)")


def _fail_usage(error: Any) -> NoReturn:
    """Tell what is wrong with the words of the command line; a group of commands without any shows its help."""
    context, message = error.ctx, error.format_message().rstrip(".")
    if context is not None and not isinstance(error, typer.BadParameter) and message.startswith("Usage:"):
        error.show()
        raise SystemExit(error.exit_code)
    # An option without its value is told without a context.
    named = [word for word in sys.argv[1:2] if word in _COMMANDS or word in _GROUPS]
    place = context.command_path if context is not None else " ".join(["mmsearch", *named])
    _fail(f"{message[:1].lower()}{message[1:]} (see: {place} --help)", error.exit_code)


def _fail(message: str, status: int = 1) -> NoReturn:
    line = valid_text(message).replace("\n", " ")
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
