"""The runbooks as HTML, with the names from an alert's labels filled in: their commands need no edits.

A runbook begins with a shell block that contains `export NAMESPACE=... POD=...`; the commands below use them.
"""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from vllm_sidecar.catalog.shipped import runbooks
from vllm_sidecar.serve.page import Asset, inline_hash, read, served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from markdown_it.token import Token

INDEX = "README.md"
"""What to do in an incident that no alert names; it begins the index."""
MOST_KEPT = 100
"""Pages that are cached, one for each runbook and set of names."""

_KUBERNETES = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9/._:-]{1,253}")
_ADDRESS = re.compile(r"[A-Za-z0-9._:\[\]-]{1,253}")


class _Parameter(NamedTuple):
    variable: str
    allowed: re.Pattern[str]


PARAMETERS: Mapping[str, _Parameter] = {
    "namespace": _Parameter("NAMESPACE", _KUBERNETES),
    "pod": _Parameter("POD", _KUBERNETES),
    "model_name": _Parameter("MODEL", _NAME),
    "instance": _Parameter("INSTANCE", _ADDRESS),
    "node": _Parameter("NODE", _KUBERNETES),
    "cluster": _Parameter("CLUSTER", _NAME),
    "uuid": _Parameter("UUID", _NAME),
}
"""Query parameters, named as the labels of an alert, with the shell variable that each fills in."""
EXAMPLE = {
    "namespace": "llm",
    "pod": "chat-0",
    "model_name": "chat",
    "instance": "10.0.0.1:10190",
    "node": "gpu-1",
    "cluster": "eu1",
    "uuid": "GPU-0",
}
"""Values in the queries of the runbooks that take the place of an alert's labels."""
_PROMQL = re.compile(r"^```promql\n(.*?)^```", re.DOTALL | re.MULTILINE)
_MATCHER = re.compile(r'\b(?P<label>\w+)="(?P<value>[^"]*)"')
_SHELL = re.compile(r"^```(?:sh|bash|shell)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_EXPORT = re.compile(r"^export .*$", re.MULTILINE)
_ASSIGNED = re.compile(r"""\b([A-Z]+)=("[^"]*"|'[^']*'|[^\s;#]*)""")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} - vllm-sidecar</title>
<link rel="icon" href="data:,">
<style>{style}</style></head>
<body><nav><a href="../">status page</a><a href="./{query}">all runbooks</a></nav>
<main>
{body}</main></body></html>
"""


def runbook(name: str, query: Mapping[str, str]) -> Asset | None:
    """Return the page of an alert's runbook, or with an empty name the index; None if no such runbook exists.

    Values of the query that are not valid names are ignored: the runbook is shown anyway.
    """
    file = f"{name.removesuffix('.md')}.md" if name else ""
    if file and file not in runbooks():
        return None
    given = tuple(
        (key, query[key]) for key, (_, allowed) in PARAMETERS.items() if allowed.fullmatch(query.get(key, ""))
    )
    return _page(file, given)


@lru_cache(MOST_KEPT)
def _page(file: str, given: tuple[tuple[str, str], ...]) -> Asset:
    query = f"?{urlencode(given, safe='/:')}" if given else ""
    text = filled(runbooks()[file], dict(given)) if file else _index()
    title = file.removesuffix(".md") if file not in ("", INDEX) else "Runbooks"
    style = read("runbook.css").decode()
    page = _PAGE.format(title=escape(title), style=style, query=escape(query), body=_html(text, query))
    policy = (
        f"default-src 'none'; style-src {inline_hash(page, 'style')}; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    )
    return served(page.encode(), "text/html", policy)


def filled(text: str, given: Mapping[str, str]) -> str:
    """Fill in the variables that the first shell block exports, and the example's labels in the queries.

    Other values stay as they are.
    """
    return _PROMQL.sub(
        lambda block: _MATCHER.sub(lambda found: _matcher(found, given), block[0]), _exported(text, given)
    )


def _matcher(found: re.Match[str], given: Mapping[str, str]) -> str:
    label, value = found["label"], found["value"]
    return f'{label}="{given[label]}"' if label in given and EXAMPLE.get(label) == value else found[0]


def _exported(text: str, given: Mapping[str, str]) -> str:
    values = {PARAMETERS[key].variable: shlex.quote(value) for key, value in given.items()}
    block = _SHELL.search(text)
    if block is None:
        return text

    def assigned(found: re.Match[str]) -> str:
        looked_up = found[2].startswith("$(")  # from the variables before it
        return found[0] if looked_up else f"{found[1]}={values.get(found[1], found[2])}"

    lines = _EXPORT.sub(lambda line: _ASSIGNED.sub(assigned, line[0]), block[1])
    return text[: block.start(1)] + lines + text[block.end(1) :]


def _index() -> str:
    names = [name.removesuffix(".md") for name in runbooks() if name != INDEX]
    listed = "".join(f"- [{name}]({name}.md)\n" for name in names)
    return f"{runbooks().get(INDEX, '# Runbooks')}\n\n## All runbooks\n\n{listed}"


def _html(text: str, query: str) -> str:
    """Render Markdown; HTML in it is shown as text, and links to other runbooks keep the names."""
    # Imported at the first request of a runbook: most sidecars never get one.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for link in _links(tokens):
        target = str(link.attrs["href"])
        if re.fullmatch(r"\w+\.md(#.*)?", target):
            file, _, anchor = target.partition("#")
            link.attrs["href"] = f"{file}{query}{'#' if anchor else ''}{anchor}"
    rendered: str = parser.renderer.render(tokens, parser.options, {})
    return rendered


def _links(tokens: Iterable[Token]) -> Iterable[Token]:
    for token in tokens:
        if token.type == "link_open":
            yield token
        yield from _links(token.children or ())
