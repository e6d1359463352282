"""Tokens, headers and certificates of a target; an unusable one is PollError(CREDENTIALS), without the secret.

Files are read in a thread of their own, one read at a time: on a file system that hangs, it delays no other target.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from typing import TYPE_CHECKING, Generic, TypeVar

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config.regular_files import open_regular, read_regular
from vllm_sidecar.vllm.threads import in_daemon_thread
from vllm_sidecar.vllm.validity import Validity, earliest, earliest_in_file, recording

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yarl import URL

    from vllm_sidecar.config import HttpServer

READ_SECONDS = 5.0
"""How long a request waits for its files."""
_MOST_BYTES = 64 * 1024
"""Largest token; it is one header."""

T = TypeVar("T")


class FileReads(Generic[T]):
    """Runs one blocking read at a time, whose result all who wait for it share."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._running: asyncio.Task[T] | None = None

    async def run(self, read: Callable[[], T]) -> T:
        """Return what `read` returns.

        Raises:
            PollError: It takes longer than READ_SECONDS.
            Exception: Any that `read` raises.
        """
        task = self._running
        if task is None or task.done():
            task = self._running = asyncio.create_task(in_daemon_thread("credentials", read))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait for it now
        done, _ = await asyncio.wait((task,), timeout=READ_SECONDS)
        if not done:
            detail = f"{self._what} cannot be read within {READ_SECONDS:g} s: does its file system hang?"
            raise PollError(Reason.CREDENTIALS, detail)
        return task.result()


class TokenFile:
    """A file with a bearer token; it is read for each request, so that a rotated token is used at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reads: FileReads[str] = FileReads(f"bearer_token_file {path}")

    async def token(self) -> str:
        """Return the current token.

        Raises:
            PollError: The file cannot be read, or does not contain exactly one token.
        """
        return await self._reads.run(lambda: read_token(self._path))


def read_token(path: Path) -> str:
    """Read a bearer token; may block."""
    try:
        # Text that is not UTF-8 is rejected below: the text of a UnicodeDecodeError would quote the file.
        token = read_regular(path, _MOST_BYTES).decode("utf-8", "replace").strip()
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
        listed = ", ".join(f"{name} {path}" for name, path in self._files.items())
        self._listed = listed or "the system certificates"
        self._reads: FileReads[ssl.SSLContext] = FileReads(self._listed)
        self.validities: dict[str, Validity] = {}
        """Validity of the certificates in use: `server`, of the last handshake, and `client`, that of cert_file."""

    async def context(self) -> ssl.SSLContext:
        """Return the context for the current files.

        Raises:
            PollError: A file is missing, unreadable, not in PEM format, encrypted, or the key of another certificate.
        """
        try:
            if self._context is not None and not self._files:
                return self._context
            return await self._reads.run(self._current)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise PollError(Reason.CREDENTIALS, f"cannot load {self._listed}: {error}") from error

    def _current(self) -> ssl.SSLContext:
        """Return the context for the current files; may block, and loading the system's certificates takes 20 ms."""
        found = [_state(path) for path in self._files.values()]
        if self._context is None or found != self._loaded:
            self._context, self._loaded = self._load(), found
        return self._context

    def _load(self) -> ssl.SSLContext:
        target = self._target
        context = ssl.create_default_context(cafile=target.ca_file)
        # The same for every version of Python, and what Prometheus does: each certificate of ca_file is trusted, and
        # certificates of private issuers need no further extensions, which Python 3.13 asks for by default.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if target.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if target.cert_file is not None:
            # With an empty password an encrypted key is an error; without one OpenSSL would prompt at the terminal.
            context.load_cert_chain(target.cert_file, target.key_file, password="")
            self._note("client", earliest_in_file(target.cert_file))
        context.sslobject_class = recording(lambda ders: self._note("server", earliest(ders)))
        return context

    def _note(self, whose: str, found: Validity | None) -> None:
        if found is None:
            self.validities.pop(whose, None)
        else:
            self.validities[whose] = found


def _state(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced; OSError for one that is not regular, which could block OpenSSL."""
    descriptor = open_regular(path)
    try:
        stat = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
