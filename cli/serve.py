"""`mmsearch serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional
from urllib.parse import quote

import typer

from cli.listening import AllowHostOption, RootOption, TokenOption, listen, names, qr_code, reachable, token_of
from cli.options import DeviceOption, IndexOption, choices
from cli.terminal import busy, note, shown
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder


def serve_command(
    folder: Annotated[
        Optional[Path],
        typer.Argument(
            exists=True,
            file_okay=False,
            help="A folder of media, whose index is made and kept up to date meanwhile; without it, one is only served.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; any but this machine itself needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    root: RootOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Index new and changed files while it runs.")] = False,
    watch_poll: Annotated[
        Optional[float],
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="The same, looking every so often: for network drives, which tell no changes.",
        ),
    ] = None,
    access_log: Annotated[
        Optional[Path],
        typer.Option(help="Append a line a request to this file; - for standard output.", show_default=False),
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(
            metavar="debug|info|warning|error|critical",
            help="Least of its own messages on standard error.",
            autocompletion=choices("debug", "info", "warning", "error", "critical"),
        ),
    ] = "warning",
    device: DeviceOption = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Search in a browser, and from other programs by HTTP."""
    from retrieval.store.manifest import find_index
    from server.logs import LEVELS, AccessLog, start_messages

    if log_level not in LEVELS:
        raise typer.BadParameter(f"{log_level!r} is not one of {', '.join(LEVELS)}", param_hint="--log-level")
    roots = tuple(root or ())
    encoder = None
    if folder is None:
        place = find_index(index, os.environ, Path.cwd())
    else:
        place, encoder = _begun(folder, index, device)
        watch, whole = True, Path(os.path.abspath(folder))
        # An index inside a folder is of that folder without its being named.
        if place.name != ".mmsearch" or place.parent not in (whole, *whole.parents):
            roots = (*roots, whole)
    watch = watch or watch_poll is not None
    if watch and not roots and place.name != ".mmsearch":
        raise QueryError("--watch: this index is not inside the folder that it is of; name that with --root FOLDER")
    import gc

    from server.app import ServeConfig, create_app
    from server.guard import EVERYWHERE, is_loopback
    from server.run import http_server

    start_messages(log_level)
    log = AccessLog(None if str(access_log) == "-" else access_log) if access_log is not None else None
    token = token_of(host, token)
    with listen(host, port) as listener:
        number = listener.getsockname()[1]
        config = ServeConfig(
            folder=place,
            hosts=names(host, allow_host or ()),
            token=token,
            device=device,
            roots=roots,
            watch=watch,
            watch_poll=watch_poll,
            encoder=encoder,
            port=number,
            access_log=log,
        )
        with busy("loading the model"):
            app = create_app(config)
        # What is loaded now stays: the collector need not look through the models again while a request waits.
        gc.collect()
        gc.freeze()
        query = f"?token={quote(token, safe='')}" if token else ""
        links = [f"http://{name}:{number}/{query}" for name in reachable(host)]
        for line in _refused(place):
            note(line)
        note(f"{shown(str(place))} at {links[0]}   (Ctrl-C ends it)")
        for link in links[1:]:
            note(f"also at {link}")
        if not is_loopback(host) and sys.stderr.isatty():
            note(qr_code(links[0]))
        if open_page:
            import webbrowser

            webbrowser.open(f"http://127.0.0.1:{number}/{query}" if host in EVERYWHERE else links[0])
        http_server(app, log_level).run(sockets=[listener])
        if log is not None:
            log.close()


def _begun(folder: Path, index: str | None, device: str) -> tuple[Path, Encoder]:
    """The index of a folder of media, which is begun where there is none, and its encoder. Raises `IndexNotFoundError` where
    there is nothing to index."""
    from indexer.roots import roots_of
    from indexer.run import begin_index, index_folder, joins, open_encoder

    roots = roots_of([folder])
    place = index_folder(index, roots)
    joined = joins(place, roots) if index is None else None
    with busy("loading the model"):
        opened = open_encoder(place, "auto", device, "auto")
    for line in (*([joined] if joined else []), *opened.notices):
        note(line)
    begin_index(roots, place, opened.encoder)
    return place, opened.encoder


def _refused(folder: Path) -> list[str]:
    """What of an index cannot be served now, and why: a line each."""
    from retrieval.store.manifest import read_manifest

    return [
        f"{shown(root)} is not there now, so its files are found but not shown; is a drive not mounted?"
        for root in read_manifest(folder).roots.paths
        if not os.path.isdir(root)
    ]
