"""Texts -> the same texts without secrets, at the few places where texts enter or leave the program.

In two ways, because each misses what the other finds. Secrets that the program itself uses are known exactly
(`Secrets`), and are hidden wherever they occur. Texts of others (a server's error, a path, a traceback) are searched
for the forms in which secrets are written (`redact`). Both take time linear in the length of a text, which a server may
choose.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HIDDEN: Final = "***"
"""Text that is shown instead of a secret."""

SHORTEST_CREDENTIAL: Final = 8
"""Characters of a token or of a header that is named like one; a shorter one occurs in other texts by chance."""
SHORTEST_HEADER: Final = 16
"""Characters of any other header: `X-Team: platform` must not hide each `platform`."""
MOST_SECRETS: Final = 4096
"""Secrets of the whole program that are remembered; then the oldest are forgotten, which were replaced."""

_CREDENTIAL = re.compile(r"auth|cookie|credential|key|passw|pwd|secret|session|token", re.IGNORECASE)

_NAMES = (
    r"api[-_ ]?key(?: provided)?|access[-_]?key(?:[-_]?id)?|(?:private|secret|account)[-_]?key|token|secret|"
    r"pass(?:word|wd|phrase)?|pwd|credentials?|authorization|cookie|session[-_]?id|signature|sig"
)
_ENDS = r"\s\"'`<>,;&|)}\]"
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,15})?://(?P<rest>[^\s\"'`<>\\]+)")
_PORT = re.compile(r"[^:]*|\[[^\]]*\](?::\d*)?|[^:]*:\d*")
_BARE_USER = re.compile(rf"(?<![\w.%+-])[\w.%+-]{{1,64}}:[^{_ENDS}/@:][^{_ENDS}@]{{0,127}}@(?=[\w\[])")
_BEARER = re.compile(
    rf"(?P<scheme>\b(?:bearer|basic|digest|negotiate))(?:\s{{1,4}}|%20|\+)"
    rf"(?!\*|(?:token|auth|authentication|authorization|credentials?|scheme|realm)\b)[^{_ENDS}]{{4,}}",
    re.IGNORECASE,
)
_NO_NAMES = "".join(
    f"(?<!{word}[-_ ])" for word in ("first", "output", "input", "prompt", "inter", "per", "bos", "eos", "pad")
)
"""Before `token`: words of language models, not of credentials."""
_PAIR = re.compile(
    rf"(?P<name>(?<![A-Za-z0-9]){_NO_NAMES}(?:{_NAMES})(?P<quote>\\?[\"']?)(?:\s{{0,4}}(?>:=|=>|[=:])\s{{0,4}}|%3[dD]))"
    r"(?!got |unknown key|missing|given twice|printable|\*\*\*)"  # as our own errors begin after the name of a key
    rf"(?P<value>\\?\"[^\"]*\"?|\\?'[^']*'?|\[[^\]]*\]?|(?:(?:bearer|basic|token)\s+)?[^{_ENDS}]+)",
    re.IGNORECASE,
)
_OPTION = re.compile(
    rf"(?P<name>(?<![\w-])--?(?:[A-Za-z0-9]{{1,32}}[-_.]){{0,6}}(?:{_NAMES})"
    r"(?:[\"']\s{0,4},\s{0,4}(?=[\"'])|[\"']?\s{1,4}))"
    rf"(?P<value>\"[^\"]*\"?|'[^']*'?|[^{_ENDS}]+)",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:sk|pk|rk)-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{12,}|hf_[A-Za-z0-9]{12,}|nvapi-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abpr]-[\w-]{10,}|A[KS]IA[0-9A-Z]{12,}|AIza[\w-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?)"
)
_LONGEST_PATH = 256
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?")
_STORAGE = frozenset(("s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "oci", "runai", "modelscope"))
"""Schemes whose URLs may contain @ in the path: `hf://org/model@revision`."""

_USER_PART = re.compile(rb"(?<=://)[^\s\"'<>/?#\\]*@")


def redact(text: str) -> str:
    """Hide what has the form of a secret: users and queries of URLs, options and keys named like secrets, tokens."""
    if "://" in text:
        text = _URL.sub(_url, text)
    if "@" in text:
        text = _BARE_USER.sub(f"{HIDDEN}@", text)
    if "-----BEGIN" in text:
        text = _PEM.sub(HIDDEN, text)
    text = _SHAPES.sub(HIDDEN, text)
    text = _OPTION.sub(rf"\g<name>{HIDDEN}", text)
    text = _PAIR.sub(_pair, text)
    return _BEARER.sub(rf"\g<scheme> {HIDDEN}", text)


def public(text: str) -> str:
    """Return a text as the log and the terminal show it: without what is known or looks like a secret."""
    return KNOWN.hide(redact(text))


def redact_body(body: bytes) -> bytes:
    """Hide the users of URLs in the body of an answer; everything else of it is data, and remains as it is."""
    # Nearly no body has an @, which is found faster than several characters.
    return _USER_PART.sub(b"***@", body) if b"@" in body and b"://" in body else body


def bare_url(text: str) -> str:
    """Cut user part, query and fragment, which may all contain secrets, from a text that is or ends with a URL."""
    scheme, slashes, rest = text.partition("://")
    if not slashes:
        return text
    rest = rest[_end_of_user(scheme.rpartition(" ")[2], rest) :]
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0]}"


def _pair(found: re.Match[str]) -> str:
    """Hide the value of a key, but no reason after a path: `/run/secrets/token: No such file or directory`."""
    if found["name"].endswith(": "):
        before = found.string[max(0, found.start() - _LONGEST_PATH) : found.start()]
        if "/" in re.split(r"[\s\"'({\[,]", before)[-1]:
            return found[0]
    return found["name"] + HIDDEN


def _url(found: re.Match[str]) -> str:
    scheme, rest = found["scheme"] or "", found["rest"]
    end = _end_of_user(scheme, rest)
    user, rest = HIDDEN + "@" if end else "", rest[end:]
    at = next((index for index, character in enumerate(rest) if character in "?#"), len(rest))
    tail = rest[at] + HIDDEN if at + 1 < len(rest) else rest[at:]
    return f"{scheme}://{user}{rest[:at]}{tail}"


def _end_of_user(scheme: str, rest: str) -> int:
    """Return where the user part of a URL ends; 0 if it has none.

    A password may hold characters that end the host of a valid URL, such as / and ?; then the text before them is not a
    host with a port, or no such character is found before the last @.
    """
    last = rest.rfind("@") + 1
    if not last:
        return 0
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return last if not _is_host(host.rpartition("@")[2]) else host.rfind("@") + 1
    return 0 if scheme.lower() in _STORAGE and _is_host(host) else last


def _is_host(text: str) -> bool:
    return _PORT.fullmatch(text) is not None


class Secrets:
    """Texts that are secret, in the forms in which they may be repeated: as they are, quoted, encoded."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._longest_first: tuple[tuple[str, bytes], ...] | None = None
        """Made at the next use: a thousand targets add a secret each, one after the other."""

    def add_header(self, name: str, value: str) -> None:
        """Remember the value of a header that is sent, with the parts of an authorization.

        One that is too short is not remembered: it would be found in other texts.
        """
        least = SHORTEST_CREDENTIAL if _CREDENTIAL.search(name) else SHORTEST_HEADER
        self._remember(value, least)
        if least == SHORTEST_CREDENTIAL:
            for part in _parts(value):
                self._remember(part, least)

    def hide(self, text: str) -> str:
        """Return a text without the secrets."""
        for secret, _ in self._ordered():
            text = text.replace(secret, HIDDEN)
        return text

    def hide_in_body(self, body: bytes) -> bytes:
        """Return the body of an answer without the secrets."""
        for _, secret in self._ordered():
            body = body.replace(secret, HIDDEN.encode())
        return body

    def _ordered(self) -> tuple[tuple[str, bytes], ...]:
        """Return the longest first: a shorter one may be a part of it."""
        found = self._longest_first
        if found is None:
            found = tuple((text, text.encode()) for text in sorted(self._texts, key=len, reverse=True))
            self._longest_first = found
        return found

    def _remember(self, secret: str, least: int) -> None:
        secret = secret.strip()
        if len(secret) < least or secret in self._texts:
            return
        self._texts.update(dict.fromkeys(_forms(secret)))
        for old in list(self._texts)[: max(0, len(self._texts) - MOST_SECRETS)]:
            del self._texts[old]
        self._longest_first = None


def _parts(value: str) -> Iterator[str]:
    """List the secrets inside an Authorization or Cookie header: its words, and user and password of `Basic`."""
    for word in re.split(r"[\s,;]+", value):
        yield word
        yield word.partition("=")[2].strip('"')
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(encoded).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]


def _forms(secret: str) -> Iterable[str]:
    quoted = json.dumps(secret)[1:-1]
    return dict.fromkeys((secret, quoted, quote(secret, safe=""), quote(secret), repr(secret)[1:-1]))


KNOWN: Final = Secrets()
"""The secrets of the whole program, which no line of the log and no error on the terminal shows."""
