"""`mmsearch serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.terminal import busy, note, shown
from retrieval.errors import MmsearchError, QueryError


def serve_command(
    index: Annotated[Optional[str], typer.Option(help="The index, or a folder that has one.")] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; any but this machine itself needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        Optional[str],
        typer.Option(envvar="MMSEARCH_TOKEN", help="Ask every request for this token.", show_default=False),
    ] = None,
    allow_host: Annotated[
        Optional[list[str]], typer.Option(help="Another name by which the server may be called; may be repeated.")
    ] = None,
    root: Annotated[
        Optional[list[Path]], typer.Option(help="A folder that files may be served from, beside the one of the index.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Index new and changed files while it runs.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Search in a browser, and from other programs by HTTP."""
    from retrieval.store.manifest import find_index

    folder = find_index(index, os.environ, Path.cwd())
    roots = tuple(root or ())
    if watch and not roots and folder.name != ".mmsearch":
        raise QueryError("--watch: this index is not inside the folder that it is of; name that with --root FOLDER")
    if token is not None and len(token) < 8:
        raise QueryError("--token: use at least 8 characters")
    import socket

    import uvicorn

    from media.image import register_decoders
    from server.app import ServeConfig, create_app
    from server.guard import EVERYWHERE, host_names, is_loopback, new_token

    register_decoders()
    names = [*(allow_host or ()), *([socket.gethostname(), "localhost"] if host in EVERYWHERE else [])]
    if token is None and not is_loopback(host):
        token = new_token()
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise MmsearchError(f"cannot listen on {host}:{port}: {error.strerror}; take another with --port") from error
    with listener:
        config = ServeConfig(
            folder=folder,
            hosts=host_names(host, names),
            token=token,
            device=device,
            roots=roots,
            watch=watch,
        )
        with busy("loading the model"):
            app = create_app(config)
        name = "127.0.0.1" if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listener.getsockname()[1]}/"
        note(f"{shown(str(folder))} at {address}{f'?token={token}' if token else ''}   (Ctrl-C ends it)")
        if open_page:
            import webbrowser

            webbrowser.open(f"{address}?token={token}" if token else address)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False))
        server.run(sockets=[listener])
