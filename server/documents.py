"""`/docs`: the OpenAPI document as one page that needs nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 56rem; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; } h2 b { display: inline-block; min-width: 3.5rem; }
pre { padding: .75rem; border: 1px solid #8885; border-radius: .4rem; overflow: auto; font-size: .85em; }
table { border-collapse: collapse; } td { padding: .15rem 1rem .15rem 0; vertical-align: top; }
"""


def documents(document: Mapping[str, Any], nonce: str) -> str:
    """The page of an OpenAPI document: each route with its parameters, its body and its answers."""
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_route(path, method, operation))
    schemas = "".join(
        f'<h2 id="{html.escape(name)}">{html.escape(name)}</h2><pre>{html.escape(json.dumps(value, indent=1))}</pre>'
        for name, value in document.get("components", {}).get("schemas", {}).items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>mmsearch API</title><style nonce="{nonce}">{_STYLE}</style><h1>mmsearch API</h1>'
        '<p>The machine\'s form of this page: <a href="/openapi.json">/openapi.json</a>. <a href="/">Back to searching</a>.</p>'
        f"{''.join(parts)}<h1>Schemas</h1>{schemas}</html>"
    )


def _route(path: str, method: str, operation: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{html.escape(p['name'])}</code><td>{html.escape(p['in'])}<td>{html.escape(_kind(p['schema']))}"
        for p in operation.get("parameters", [])
    ]
    for kind, value in operation.get("requestBody", {}).get("content", {}).items():
        rows.append(f"<tr><td>body<td><code>{html.escape(kind)}</code><td>{_kind(value['schema'])}")
    for status, value in operation["responses"].items():
        content: list[Mapping[str, Any]] = list(value.get("content", {}).values())
        inner = content[0].get("schema", {}) if content else {}
        rows.append(f"<tr><td>{html.escape(status)}<td>{html.escape(value['description'])}<td>{_kind(inner)}")
    title = f"<h2><b>{method.upper()}</b> <code>{html.escape(path)}</code></h2>"
    return f"{title}<p>{html.escape(operation.get('summary', ''))}</p><table>{''.join(rows)}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a word; a named one as a link."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    return html.escape(str(schema.get("format") or schema.get("type") or ""))
