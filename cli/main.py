"""`mmsearch`: the commands put together, and every failure as one line."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Annotated

import typer

from cli import admin, ask, bench, describe, explain, export, index, model, search, serve, summarize
from cli.terminal import say_hints
from retrieval.errors import MmsearchError

app = typer.Typer(
    name="mmsearch",
    help="Search folders of photos and texts by meaning, on this machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("index")(index.index_command)
app.command("search")(search.search_command)
app.command("ask")(ask.ask_command)
app.command("describe")(describe.describe_command)
app.command("summarize")(summarize.summarize_command)
app.command("explain")(explain.explain_command)
app.command("serve")(serve.serve_command)
app.command("status")(admin.status_command)
app.command("failures")(admin.failures_command)
app.command("export")(export.export_command)
app.command("compact")(admin.compact_command)
app.command("doctor")(admin.doctor_command)
app.add_typer(model.app, name="models")
app.add_typer(bench.app, name="bench")


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
    """Search folders of photos and texts by meaning, on this machine."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 a failure told in one line, 2 wrong usage."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv = [sys.argv[0], *(argument for argument in sys.argv[1:] if argument != "--debug")]
    # Pillow warns of odd metadata in files that it reads well: nobody can act on that.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        app(standalone_mode=True)
    except MmsearchError as error:
        if debug:
            traceback.print_exc()
        _fail(str(error))
    except BrokenPipeError:
        # The reader of our output went away (`mmsearch search … | head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        _fail(f"unexpected {type(error).__name__}: {text} (run with --debug for the whole story)")


def _fail(message: str) -> None:
    line = message.encode("utf-8", "backslashreplace").decode().replace("\n", " ")
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
