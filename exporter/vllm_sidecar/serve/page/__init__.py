"""The status page: one HTML file, and the chart library uPlot 1.6.32 (MIT, uplot.LICENSE), all served from here."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

TYPES = {"uplot.js": "text/javascript", "uplot.css": "text/css", "uplot.LICENSE": "text/plain"}


class Asset(NamedTuple):
    """One file as it is served."""

    body: bytes
    content_type: str
    etag: str
    policy: str
    """Content-Security-Policy of the page; empty for other files."""


@cache
def page() -> Asset:
    """Return the page; its policy allows its own script and style by their hashes, and nothing from elsewhere."""
    text = read("index.html").decode()
    script, style = (inline_hash(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src 'self' {script}; style-src 'self' {style}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return served(text.encode(), "text/html", policy)


def asset(name: str) -> Asset | None:
    """Return a file that the page loads; None for any other name, which is not cached."""
    return _known_asset(name) if name in TYPES else None


@cache
def _known_asset(name: str) -> Asset:
    return served(read(name), TYPES[name])


def read(name: str) -> bytes:
    """Return the bytes of a file of this package."""
    return resources.files(__package__).joinpath(name).read_bytes()


def served(body: bytes, content_type: str, policy: str = "") -> Asset:
    """Return bytes with the headers they are served with."""
    return Asset(body, content_type, hashlib.sha256(body).hexdigest()[:16], policy)


def inline_hash(text: str, tag: str) -> str:
    """Return the hash of the page's only inline element of a kind, in the form of the policy."""
    (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
