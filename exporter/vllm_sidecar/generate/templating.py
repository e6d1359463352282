"""The one environment of jinja2, for Markdown and for expressions."""

from __future__ import annotations

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

FOLDER = Path(__file__).parent / "templates"

# Delimiters that collide with neither Prometheus' {{ }} nor PromQL's [ ]. There is no HTML here to escape for.
JINJA = Environment(
    loader=FileSystemLoader(FOLDER),
    undefined=StrictUndefined,
    variable_start_string="<<",
    variable_end_string=">>",
    block_start_string="<%",
    block_end_string="%>",
    comment_start_string="<#",
    comment_end_string="#>",
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # noqa: S701
)


@functools.cache
def _compiled(text: str) -> Template:
    return JINJA.from_string(text)


def render(text: str, **words: object) -> str:
    """Insert words into a text of the catalog; a text is compiled once, because a user may have many models."""
    return _compiled(text).render(**words)
