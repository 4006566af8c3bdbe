"""``/docs``: the API's description as a page, made of the same document; no script, nothing from another host."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from mooring_api.rest.problems import PREFIX, PROBLEMS


def page(description: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    parts = [
        _operation(path, method, found) for path, row in description["paths"].items() for method, found in row.items()
    ]
    rows = "".join(
        f"<tr><td>{kind.status}</td><td><code>{PREFIX}{kind.name}</code></td><td>{escape(kind.title)}</td><td>{_code(kind.when)}</td></tr>"
        for kind in PROBLEMS
    )
    schemas = "".join(
        f'<details id="{name}"><summary><code>{name}</code></summary><pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre></details>'
        for name, schema in sorted(description["components"]["schemas"].items())
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mooring · API</title><link rel="stylesheet" href="/console/docs.css">
<header><h1>mooring <small>API {escape(description["info"]["version"])}</small></h1>
<p>{escape(description["info"]["description"])} <a href="/">Console</a> · <a href="/openapi.json">openapi.json</a></p>
<p>Every request but those marked <em>open</em> needs <code>Authorization: Bearer …</code>; <code>mooring token</code> prints the token.</p></header>
<main>{"".join(parts)}
<h2 id="problems">Problems</h2><p>Errors are RFC 9457 <code>application/problem+json</code>.</p>
<table><tr><th>status</th><th>type</th><th>meaning</th><th>when</th></tr>{rows}</table>
<h2 id="schemas">Schemas</h2>{schemas}</main></html>"""


def _operation(path: str, method: str, found: dict[str, Any]) -> str:
    is_open = " <em>open</em>" if found.get("security") == [] else ""
    out = [
        f'<section id="{found["operationId"]}"><h2><span class="{method}">{method.upper()}</span> <code>{escape(path)}</code>{is_open}</h2>',
        f"<p><strong>{escape(found['summary'])}.</strong> {escape(found.get('description', ''))}</p>",
    ]
    if "parameters" in found:
        rows = "".join(
            f"<tr><td><code>{escape(one['name'])}</code></td><td>{one['in']}</td><td>{escape(one.get('description', ''))}</td></tr>"
            for one in found["parameters"]
        )
        out.append(f"<table><tr><th>parameter</th><th>in</th><th></th></tr>{rows}</table>")
    if "requestBody" in found:
        content = found["requestBody"]["content"]
        out.append(f"<p>Body: {', '.join(_media(kind, entry) for kind, entry in content.items())}</p>")
        examples = [entry["example"] for entry in content.values() if "example" in entry]
        if examples:
            out.append(f"<pre>{escape(json.dumps(examples[0], indent=2, ensure_ascii=False))}</pre>")
    rows = "".join(
        f"<tr><td>{status}</td><td>{escape(answer['description'])}</td>"
        f"<td>{', '.join(_media(kind, entry) for kind, entry in answer.get('content', {}).items())}</td></tr>"
        for status, answer in found["responses"].items()
    )
    out.append(f"<table><tr><th>status</th><th>answer</th><th></th></tr>{rows}</table></section>")
    return "".join(out)


def _media(kind: str, entry: dict[str, Any]) -> str:
    reference = entry["schema"].get("$ref", "")
    name = reference.rpartition("/")[2]
    return f'<a href="#{name}">{name}</a>' if name else f"<code>{escape(kind)}</code>"


def _code(text: str) -> str:
    """Return a sentence with what stands in backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))
