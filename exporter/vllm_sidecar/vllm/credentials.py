"""Tokens, headers and certificates of a target; an unusable one is PollError(CREDENTIALS), without the secret."""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from yarl import URL

    from vllm_sidecar.config import HttpServer

_TOKEN_LIMIT = 64 * 1024


def read_token(path: Path) -> str:
    """Read a bearer token; it is read for each request, so that a rotated token is used at once."""
    try:
        if not path.is_file():  # opening a pipe would block every target
            raise PollError(Reason.CREDENTIALS, f"bearer_token_file {path} is not a file")
        # Text that is not UTF-8 is rejected below: the text of a UnicodeDecodeError would quote the file.
        with path.open(encoding="utf-8", errors="replace") as file:
            token = file.read(_TOKEN_LIMIT).strip()
    except OSError as error:
        raise PollError(Reason.CREDENTIALS, f"bearer_token_file {path}: {error.strerror}") from error
    if not token:
        raise PollError(Reason.CREDENTIALS, f"bearer_token_file {path} is empty")
    if " " in token or not token.isascii() or not token.isprintable():
        raise PollError(Reason.CREDENTIALS, f"bearer_token_file {path} does not contain exactly one token")
    return token


def header_value(name: str, value: str) -> str:
    """Check the value of a configured header; aiohttp's own error would quote it."""
    value = value.strip()
    if not value.isprintable():
        raise PollError(Reason.CREDENTIALS, f"header {name}: its value contains a control character")
    return value


def basic_auth(address: URL) -> str | None:
    """Make the Authorization header for the user part of a url; None without a user part."""
    if address.user is None and address.password is None:
        return None
    pair = f"{address.user or ''}:{address.password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


class Certificates:
    """The TLS context for a server, made at its first use and again after one of its files was replaced or unusable."""

    def __init__(self, target: HttpServer) -> None:
        self._target = target
        files = {"ca_file": target.ca_file, "cert_file": target.cert_file, "key_file": target.key_file}
        self._files = {name: path for name, path in files.items() if path is not None}
        self._context: ssl.SSLContext | None = None
        self._loaded: list[tuple[int, int, int]] = []

    async def context(self) -> ssl.SSLContext:
        """Return the context for the current files.

        Raises:
            PollError: A file is missing, unreadable, not in PEM format, encrypted, or the key of another certificate.
        """
        try:
            found = self._state()
            if self._context is None or found != self._loaded:
                # In a thread, because loading the system's certificates takes 20 ms.
                self._context = await asyncio.to_thread(self._load)
                self._loaded = found
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            listed = ", ".join(f"{name} {path}" for name, path in self._files.items())
            raise PollError(
                Reason.CREDENTIALS, f"cannot load {listed or 'the system certificates'}: {error}"
            ) from error
        return self._context

    def _state(self) -> list[tuple[int, int, int]]:
        stats = [path.stat() for path in self._files.values()]
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]

    def _load(self) -> ssl.SSLContext:
        target = self._target
        context = ssl.create_default_context(cafile=target.ca_file)
        if target.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if target.cert_file is not None:
            # With an empty password an encrypted key is an error; without one OpenSSL would prompt at the terminal.
            context.load_cert_chain(target.cert_file, target.key_file, password="")
        return context
