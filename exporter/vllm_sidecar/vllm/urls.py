"""Texts that may contain URLs, without the parts that can hold credentials; in linear time, for any text."""

from __future__ import annotations

import re

_END = re.compile(r"[?#]")
_PATH = re.compile(r"[/?#]")


def without_credentials(text: str) -> str:
    """Return a text without the user part of its URLs, and without what follows the first query or fragment of one.

    A password may contain any character, also `/`, `@` and `://`. Everything from the first URL up to the last `@` is
    therefore a user part, unless it has a slash and no colon: `s3://bucket/model@2` remains,
    `http://user:pass/word@host` becomes `http://host`.
    """
    before, separator, url = text.partition("://")
    user, at, rest = url.rpartition("@")
    shown = rest if at and (":" in user or not _PATH.search(user)) else url
    return before + separator + (_END.split(shown, maxsplit=1)[0] if separator else "")


def cut_text(text: str, most: int) -> str:
    """Return the start of a long text, without a URL in it: only the end of a URL shows what is its user part."""
    return text if len(text) <= most else text[:most].partition("://")[0]
