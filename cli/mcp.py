"""`mmsearch mcp`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.listening import AllowHostOption, RootOption, TokenOption, listen, names, reachable, split_address, token_of
from cli.options import DeviceOption, IndexOption
from cli.terminal import note, shown


def mcp_command(
    index: IndexOption = None,
    http: Annotated[
        Optional[str],
        typer.Option(
            metavar="HOST:PORT",
            help="Listen there for streamable HTTP; without it, standard input and output are the connection.",
            show_default=False,
        ),
    ] = None,
    token: TokenOption = None,
    allow_host: AllowHostOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Let agents search, look and ask: tools of the Model Context Protocol that only read."""
    import asyncio

    from retrieval.store.manifest import find_index
    from server.mcp import PATH, Tools, http_application, tool_server

    folder = find_index(index, os.environ, Path.cwd())
    where = split_address(http) if http is not None else None
    tools = Tools(folder, device, tuple(root or ()))
    try:
        server = tool_server(tools)
        tools.warm()
        if where is None:
            if sys.stdin.isatty():
                note("waiting for an agent on standard input, which starts this command itself; see docs/agents.md")
            asyncio.run(server.run_stdio_async())
            return
        from server.run import http_server

        host, port = where
        secret = token_of(host, token)
        with listen(host, port) as listener:
            application = http_application(server, names(host, allow_host or ()), secret)
            address = f"http://{reachable(host)[0]}:{listener.getsockname()[1]}{PATH}"
            note(f"{shown(str(folder))} at {address}   (Ctrl-C ends it)")
            if secret is not None and token is None:
                note(f"requests need the header Authorization: Bearer {secret}")
            http_server(application).run(sockets=[listener])
    finally:
        tools.close()
