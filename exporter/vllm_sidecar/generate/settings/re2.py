"""Check of regular expressions against RE2: the dialect of Prometheus, Thanos, Mimir, VictoriaMetrics and Alertmanager.

Python's dialect differs: it has look-around, back references and possessive repetitions, and Python cannot check
whether RE2 accepts an expression. Prometheus refuses a whole file with one that it does not accept.
"""

from __future__ import annotations

import re

MOST_REPETITIONS = 1000
"""RE2's own limit, also for the product of repetitions inside each other."""
MOST_CHARACTERS = 2000
MOST_DEPTH = 100

_REPETITION = re.compile(r"(?:[*+?]|\{(?P<least>0|[1-9]\d*)(?P<open>,(?P<most>0|[1-9]\d*)?)?\})(?P<lazy>\??)", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P<(?P<name>[A-Za-z_]\w*)>|(?P<flags>[imsU]*(?:-[imsU]+)?)(?P<end>[:)]))", re.ASCII)
_CLASS_NAMES = "alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit"
_POSIX = re.compile(rf"\[:\^?(?:{_CLASS_NAMES}):\]")
_CATEGORIES = "C[cfos]?|L[lmotu]?|M[cen]?|N[dlo]?|P[cdefios]?|S[ckmo]?|Z[lps]?"
_SCRIPTS = "Arabic|Cyrillic|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai"
_UNICODE = rf"[pP](?:[CLMNPSZ]|\{{\^?(?:{_CATEGORIES}|{_SCRIPTS})\}})"
_CHARACTER = r"[afnrtv]|x[0-9A-Fa-f]{2}|x\{(?:10|0?[0-9A-Fa-f])?[0-9A-Fa-f]{1,4}\}|[^\w\s<>]|_"
_ESCAPE = re.compile(rf"\\(?:{_CHARACTER}| |[dDsSwWAzbB]|{_UNICODE})", re.ASCII)
_ESCAPE_IN_CLASS = re.compile(rf"\\(?:(?P<one>{_CHARACTER}| )|[dDsSwW]|{_UNICODE})", re.ASCII)
_CODES = dict(zip("afnrtv", "\a\f\n\r\t\v", strict=True))


class Re2Error(ValueError):
    """An expression that RE2 does not accept; the text has the reason."""


def check(pattern: str) -> None:
    r"""Raise Re2Error unless RE2 accepts the pattern.

    Syntax that RE2 accepts and no label needs (octal escapes, `\\Q`, rare scripts) is refused too.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise Re2Error(f"it is longer than {MOST_CHARACTERS} characters")
    _Pattern(pattern).check()


class _Pattern:
    """One walk over a pattern, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.names: set[str] = set()

    def check(self) -> None:
        self._alternatives(0)
        if self.at < len(self.text):
            raise Re2Error(f"a ) at character {self.at + 1} has no opening (")

    def _alternatives(self, depth: int) -> int:
        """Walk to the end of a group; return the largest product of repetitions in it."""
        if depth > MOST_DEPTH:
            raise Re2Error(f"its groups are nested deeper than {MOST_DEPTH}")
        most = 1
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self.text[self.at] == "|":
                self.at += 1
                continue
            most = max(most, self._repeated(depth))
        return most

    def _repeated(self, depth: int) -> int:
        start = self.at
        times = self._one(depth)
        found = _REPETITION.match(self.text, self.at)
        if found is None:
            return max(times, 1)
        if times == 0:
            raise Re2Error(f"nothing precedes the repetition at character {self.at + 1}")
        self.at = found.end()
        if again := _REPETITION.match(self.text, self.at):
            raise Re2Error(f"{self.text[start : again.end()]!r} repeats a repetition")
        if found["least"] is None:
            return times
        least = int(found["least"][:5])
        most = int(found["most"][:5]) if found["most"] else least
        times *= max(most, 1)
        if least > most or times > MOST_REPETITIONS:
            raise Re2Error(f"{found[0]} is not a valid repetition, or repeats more than {MOST_REPETITIONS} times")
        return times

    def _one(self, depth: int) -> int:
        """Walk over one thing that may be repeated; return 0 for one that may not."""
        character = self.text[self.at]
        if character == "(":
            return self._group(depth)
        if character == "[":
            self._class()
        elif character == "\\":
            self._take(_ESCAPE, "an escape that RE2 does not support")
        elif _REPETITION.match(self.text, self.at):
            return 0
        else:
            self.at += 1
        return 1

    def _take(self, what: re.Pattern[str], why: str) -> re.Match[str]:
        found = what.match(self.text, self.at)
        if found is None:
            raise Re2Error(f"{self.text[self.at : self.at + 4]!r} at character {self.at + 1} is {why}")
        self.at = found.end()
        return found

    def _group(self, depth: int) -> int:
        start = self.at
        if self.text.startswith("(?", self.at):
            found = self._take(_GROUP, "not a group of RE2, which has neither look-around nor back references")
            if found["name"] in self.names:
                raise Re2Error(f"the group {found['name']} exists twice")
            if found["name"]:
                self.names.add(found["name"])
            if found["end"] == ")":
                return 0
        else:
            self.at += 1
        times = self._alternatives(depth + 1)
        if self.at >= len(self.text):
            raise Re2Error(f"the ( at character {start + 1} is not closed")
        self.at += 1
        return times

    def _class(self) -> None:
        start = self.at
        self.at += 2 if self.text.startswith("[^", self.at) else 1
        first = True
        while first or not self.text.startswith("]", self.at):
            if self.at >= len(self.text):
                raise Re2Error(f"the [ at character {start + 1} is not closed")
            low = self._member()
            if self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                self.at += 1
                high = self._member() if self.at < len(self.text) else None
                if low is None or high is None or low > high:
                    raise Re2Error(f"{self.text[start : self.at]!r} holds an invalid range")
            first = False
        self.at += 1

    def _member(self) -> str | None:
        """Walk over one member of a class; return its character, None for one that stands for many."""
        if posix := _POSIX.match(self.text, self.at):
            self.at = posix.end()
            return None
        if self.text.startswith("[:", self.at):
            raise Re2Error(f"{self.text[self.at : self.at + 8]!r} is not a class of characters")
        if self.text[self.at] == "\\":
            found = self._take(_ESCAPE_IN_CLASS, "an escape that RE2 does not support in a class")
            return _character(found["one"]) if found["one"] else None
        self.at += 1
        return self.text[self.at - 1]


def _character(escaped: str) -> str:
    if escaped.startswith("x") and len(escaped) > 1:
        return chr(int(escaped[1:].strip("{}"), 16))
    return _CODES.get(escaped, escaped)
