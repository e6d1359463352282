"""One push: a request with a deadline, credentials as of a target, and its outcome as one of a closed set of reasons.

As for targets, redirects are not followed, proxies from the environment are not used, and cookies are not stored. A
push is not repeated: the next one has the same counters, and more.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from vllm_sidecar import __version__
from vllm_sidecar.catalog.otlp import PushReason
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.config.regular_files import read_regular
from vllm_sidecar.redaction import KNOWN, redact
from vllm_sidecar.vllm.client import unix_time
from vllm_sidecar.vllm.credentials import Certificates, FileReads, header_value, read_token
from vllm_sidecar.vllm.errors import classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.config import OtlpSettings

CONTENT_TYPE = "application/x-protobuf"
LONGEST_WAIT = 3600.0
"""Most seconds for which a receiver may ask to be left alone."""
_ANSWER_BYTES = 64 * 1024
_MESSAGE_CHARACTERS = 300
_HEADER_BYTES = 64 * 1024
_OF_A_REQUEST = {
    Reason.TLS: PushReason.TLS,
    Reason.CREDENTIALS: PushReason.CREDENTIALS,
    Reason.TIMEOUT: PushReason.TIMEOUT,
    Reason.INTERNAL: PushReason.INTERNAL,
}
"""Reasons of the client of targets that are not UNREACHABLE."""
_OF_A_STATUS = {
    401: PushReason.UNAUTHORIZED,
    403: PushReason.UNAUTHORIZED,
    404: PushReason.NOT_FOUND,
    405: PushReason.NOT_FOUND,
    413: PushReason.TOO_LARGE,
    429: PushReason.THROTTLED,
    502: PushReason.UNAVAILABLE,
    503: PushReason.UNAVAILABLE,
    504: PushReason.UNAVAILABLE,
}


class PushError(Exception):
    """A push that the receiver did not accept; `detail` holds no secret."""

    def __init__(self, reason: PushReason, detail: str, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.wait = wait
        """Seconds for which the receiver wants no push."""


class Answer(NamedTuple):
    """An answer with a status of success."""

    body: bytes
    is_protobuf: bool


class OtlpClient:
    """Sends pushes to one receiver; each has its own connection, because they are rare."""

    def __init__(self, settings: OtlpSettings) -> None:
        self._settings = settings
        self._certificates = Certificates(settings)
        self._reads: FileReads[dict[str, str]] = FileReads("the files of otlp.header_files and bearer_token_file")

    async def send(self, body: bytes) -> Answer:
        """Send a body, gzipped if compression is on.

        Raises:
            PushError: The receiver did not accept it, or it is unknown whether it did.
        """
        where = self._settings.url
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await self._send(body, where)
        except TimeoutError:
            detail = f"{where}: no answer within {self._settings.timeout:g} s"
            raise PushError(PushReason.TIMEOUT, detail) from None
        except PollError as error:
            raise _failed(error) from None
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise _failed(classify(error, where)) from None

    async def _send(self, body: bytes, where: str) -> Answer:
        address, headers = URL(where), await self._headers()
        tls = await self._certificates.context() if address.scheme == "https" else True
        resolver = aiohttp.AsyncResolver()
        try:
            async with (
                aiohttp.TCPConnector(resolver=resolver) as connector,
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(address, data=body, headers=headers, allow_redirects=False, ssl=tls) as answer,
            ):
                content = await answer.content.read(_ANSWER_BYTES)
                if answer.status // 100 != 2:
                    raise _refused(answer, content, where)
                return Answer(content, answer.content_type == CONTENT_TYPE)
        finally:
            await resolver.close()

    async def _headers(self) -> dict[str, str]:
        settings = self._settings
        headers = {name.lower(): header_value(name, each.get_secret_value()) for name, each in settings.headers.items()}
        if settings.bearer_token is not None:
            headers["authorization"] = f"Bearer {settings.bearer_token.get_secret_value()}"
        if settings.header_files or settings.bearer_token_file is not None:
            headers |= await self._reads.run(self._read_files)
        for name, value in headers.items():
            KNOWN.add_header(name, value)
        headers |= {"user-agent": f"vllm-sidecar/{__version__}", "content-type": CONTENT_TYPE}
        return headers | ({"content-encoding": "gzip"} if settings.compression == "gzip" else {})

    def _read_files(self) -> dict[str, str]:
        """Read the headers that are in files; may block."""
        settings, found = self._settings, {}
        if settings.bearer_token_file is not None:
            found["authorization"] = f"Bearer {read_token(settings.bearer_token_file)}"
        for name, path in settings.header_files.items():
            try:
                text = read_regular(path, _HEADER_BYTES).decode("utf-8", "replace")
            except OSError as error:
                raise PollError(Reason.CREDENTIALS, f"header_files {path}: {error.strerror}") from error
            found[name.lower()] = header_value(name, text)
        return found


def _failed(error: PollError) -> PushError:
    return PushError(_OF_A_REQUEST.get(error.reason, PushReason.UNREACHABLE), error.detail)


def _refused(answer: aiohttp.ClientResponse, content: bytes, where: str) -> PushError:
    """Return the error of an answer with another status than one of success."""
    reason = _OF_A_STATUS.get(answer.status, PushReason.REFUSED)
    message = KNOWN.hide(redact(_shown(content)))[:_MESSAGE_CHARACTERS]
    detail = f"{where}: status {answer.status}{f': {message}' if message else ''}"
    return PushError(reason, detail, retry_after(answer.headers, time.time()))


def _shown(content: bytes) -> str:
    """Return the readable part of a message: text, or the text in a message of protobuf."""
    text = "".join(each if each.isprintable() else " " for each in content.decode("utf-8", "ignore"))
    return " ".join(text.split())


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 without a usable one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(LONGEST_WAIT, float(text[:9]))
    date = unix_time(text) if text else None
    return min(LONGEST_WAIT, max(0.0, date - now)) if date is not None else 0.0
