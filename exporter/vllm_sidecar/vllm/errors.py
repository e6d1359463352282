"""Failures of a request -> PollError with one of a closed set of reasons."""

from __future__ import annotations

import errno
import os
import re
import ssl
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.vllm.urls import without_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATUS_REASONS = {401: Reason.HTTP_401, 403: Reason.HTTP_403, 404: Reason.HTTP_404}
_ERRNO_REASONS = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ENOENT: Reason.REFUSED,  # of a unix socket
    errno.ETIMEDOUT: Reason.TIMEOUT,
    errno.ECONNRESET: Reason.DISCONNECTED,
    errno.ECONNABORTED: Reason.DISCONNECTED,
    errno.EPIPE: Reason.DISCONNECTED,
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.ENETDOWN: Reason.UNREACHABLE,
    errno.EADDRNOTAVAIL: Reason.UNREACHABLE,
    errno.EAFNOSUPPORT: Reason.UNREACHABLE,
    errno.EACCES: Reason.UNREACHABLE,  # from a local firewall
    errno.EPERM: Reason.UNREACHABLE,
}
_TLS_HINTS = (
    ("not valid for", "the certificate is for another name: use that name in url, or set insecure_skip_verify"),
    ("mismatch", "the certificate is for another name: use that name in url, or set insecure_skip_verify"),
    ("expired", "the server's certificate must be renewed"),
    ("CERTIFICATE_VERIFY_FAILED", "set ca_file to the certificate of its CA, or set insecure_skip_verify"),
    ("WRONG_VERSION_NUMBER", "the port does not use TLS: is it http:// instead of https://?"),
    ("RECORD_LAYER_FAILURE", "the port does not use TLS: is it http:// instead of https://?"),
    ("HTTP_REQUEST", "the port does not use TLS: is it http:// instead of https://?"),
    ("ALERT", "the server rejects this client: does it require a certificate (cert_file, key_file)?"),
)
_BANNERS = (
    (re.compile(r"b['\"]SSH-"), "an SSH server"),
    (re.compile(r"b['\"]\\x1[56]\\x03"), "a TLS port: use https:// in url"),
)


def check_status(status: int, location: str | None, where: str) -> None:
    """Raise the error of any status but 200; a redirect's target is shown without user part and query."""
    if status == 200:
        return
    if status in (301, 302, 303, 307, 308):
        goal = re.split(r"[?#]", without_credentials(location or "nowhere"))[0]
        raise PollError(Reason.REDIRECT, f"{where}: status {status} redirects to {goal[:200]}")
    default = {4: Reason.HTTP_4XX, 5: Reason.HTTP_5XX}.get(status // 100, Reason.HTTP_OTHER)
    raise PollError(_STATUS_REASONS.get(status, default), f"{where}: status {status}")


def classify(error: Exception, where: str, *, reading: bool = False) -> PollError:
    """Map an exception of aiohttp, the sockets or TLS to the nearest reason.

    Args:
        error: The exception; its causes are checked too, because aiohttp wraps exceptions.
        where: The address, for the detail.
        reading: Whether the answer had begun.
    """
    causes = list(_causes(error))
    if reading:
        return PollError(Reason.TRUNCATED, f"{where}: the body is damaged or ends too early ({type(error).__name__})")
    for cause in causes:
        # aiohttp's own TLS errors are SSLErrors too, but without the text of OpenSSL.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return PollError(Reason.TLS, f"{where}: {_explain_tls(cause)}")
        if isinstance(cause, aiohttp.ClientConnectorDNSError):
            return PollError(Reason.DNS, f"{where}: no address found for the host name ({cause.os_error.args[-1]})")
        if isinstance(cause, UnicodeError):
            return PollError(Reason.DNS, f"{where}: no address found for the host name ({cause.args[-1]})")
        if isinstance(cause, (aiohttp.ClientResponseError, HttpProcessingError)):
            return PollError(Reason.NOT_HTTP, f"{where}: not an HTTP answer{_name_banner(cause.message)}")
    numbers = [number for cause in causes for number in _errnos(cause)]
    # A host name with several addresses can fail with several numbers: the table has the most specific first.
    for number, reason in _ERRNO_REASONS.items():
        if number in numbers:
            return PollError(reason, f"{where}: {os.strerror(number)}")
    if numbers:
        return PollError(Reason.INTERNAL, f"{where}: {os.strerror(numbers[0])}")
    if isinstance(error, (aiohttp.ClientConnectionError, ConnectionError)):
        # asyncio's TLS servers, such as vLLM's, close the connection of a client without the required certificate.
        hint = " - does it require a client certificate (cert_file, key_file)?" if where.startswith("https:") else ""
        return PollError(Reason.DISCONNECTED, f"{where}: closed without a complete answer{hint}")
    # Not str(error): the text of an unknown error may contain a header.
    return PollError(Reason.INTERNAL, f"{where}: unexpected {type(error).__name__}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__


def _errnos(error: BaseException) -> list[int]:
    if not isinstance(error, OSError):
        return []
    if error.errno is not None:
        return [error.errno]
    # For a host name with several addresses that fail differently, asyncio joins all errors into one text.
    return [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]


def _explain_tls(error: ssl.SSLError) -> str:
    text = " ".join(str(argument) for argument in error.args)
    hint = next((hint for pattern, hint in _TLS_HINTS if pattern in text), None)
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or "TLS failed"
    return f"{reason} - {hint}" if hint else str(reason)


def _name_banner(message: str) -> str:
    known = next((name for pattern, name in _BANNERS if pattern.search(message)), None)
    return f": it looks like {known}" if known else ""
