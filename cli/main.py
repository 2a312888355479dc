"""`mmsearch`: the commands put together, and every failure as one line."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from cli import admin, ask, bench, describe, doctor, duplicates, explain, export, index, model, search, serve, summarize
from cli.layout import GroupedCommands, PlainCommand, complete_command
from cli.terminal import say_hints
from media.names import valid_text
from retrieval.errors import MmsearchError, UsageError

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
FIND, READ, KEEP, MEASURE = (
    "Index and search",
    "Pictures and films in words",
    "Look after an index",
    "Models and figures",
)
for _heading, _name, _function in (
    (FIND, "index", index.index_command),
    (FIND, "search", search.search_command),
    (FIND, "serve", serve.serve_command),
    (READ, "describe", describe.describe_command),
    (READ, "summarize", summarize.summarize_command),
    (READ, "explain", explain.explain_command),
    (READ, "ask", ask.ask_command),
    (KEEP, "duplicates", duplicates.duplicates_command),
    (KEEP, "status", admin.status_command),
    (KEEP, "failures", admin.failures_command),
    (KEEP, "compact", admin.compact_command),
    (KEEP, "export", export.export_command),
    (MEASURE, "doctor", doctor.doctor_command),
):
    app.command(_name, cls=PlainCommand, rich_help_panel=_heading)(_function)
app.add_typer(model.app, name="models", rich_help_panel=MEASURE)
app.add_typer(bench.app, name="bench", rich_help_panel=MEASURE)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("mmsearch"))
        raise typer.Exit


def _say_hints(_: object, **__: object) -> None:
    say_hints()


@app.callback(result_callback=_say_hints)
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
        complete_command(app)(prog_name="mmsearch")
    except MmsearchError as error:
        if debug:
            traceback.print_exc()
        _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # The reader of our output went away (`mmsearch search … | head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        _fail(f"unexpected {type(error).__name__}: {text} (run with --debug for the whole story)")


def _fail(message: str, status: int = 1) -> None:
    line = valid_text(message).replace("\n", " ")
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
