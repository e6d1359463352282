"""Texts that may contain URLs, without the parts that can hold credentials; in linear time, for any text."""

from __future__ import annotations

import re

_END = re.compile(r"[?#]")


def without_credentials(text: str) -> str:
    """Return a text whose URLs have no user part, and that ends before the first query or fragment of one.

    A password may contain a slash. What precedes an `@` is therefore a user part, unless it has a slash and no colon:
    `s3://bucket/model@2` remains, `http://user:pass/word@host` becomes `http://host`.
    """
    before, *urls = text.split("://")
    kept = [before]
    for url in urls:
        user, at, rest = url.rpartition("@")
        shown = rest if at and (":" in user or not re.search(r"[/?#]", user)) else url
        end = _END.search(shown)
        if end:
            kept.append(shown[: end.start()])
            break
        kept.append(shown)
    return "://".join(kept)


def cut_text(text: str, most: int) -> str:
    """Return the start of a long text; a URL that the cut would split is left out, because its end shows what it is."""
    if len(text) <= most:
        return text
    start = text[:most]
    whole, split, _ = start.rpartition("://")
    return whole if split else start
