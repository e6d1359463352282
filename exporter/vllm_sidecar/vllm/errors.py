"""What goes wrong with a request -> PollError with one of the closed set of reasons."""

from __future__ import annotations

import errno
import os
import re
import ssl
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from vllm_sidecar.catalog.reasons import PollError, Reason

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
    errno.EACCES: Reason.UNREACHABLE,  # what a local firewall says
    errno.EPERM: Reason.UNREACHABLE,
}
_TLS_HINTS = (
    ("not valid for", "the certificate is for another name: use that name in url, or set insecure_skip_verify"),
    ("mismatch", "the certificate is for another name: use that name in url, or set insecure_skip_verify"),
    ("expired", "the server's certificate must be renewed"),
    ("CERTIFICATE_VERIFY_FAILED", "set ca_file to the authority that signed it, or insecure_skip_verify"),
    ("WRONG_VERSION_NUMBER", "the port does not speak TLS: is it http:// instead of https://?"),
    ("RECORD_LAYER_FAILURE", "the port does not speak TLS: is it http:// instead of https://?"),
    ("HTTP_REQUEST", "the port does not speak TLS: is it http:// instead of https://?"),
    ("ALERT", "the server does not accept this client: does it want a certificate (cert_file, key_file)?"),
)
_BANNERS = (
    (re.compile(r"b['\"]SSH-"), "an SSH server"),
    (re.compile(r"b['\"]\\x1[56]\\x03"), "a TLS port: use https:// in url"),
)


def check_status(status: int, location: str | None, where: str) -> None:
    """Raise what any status but 200 stands for; of a redirect's target neither user part nor query is told."""
    if status == 200:
        return
    if status in (301, 302, 303, 307, 308):
        goal = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", location or "nowhere")[0])
        raise PollError(Reason.REDIRECT, f"{where}: status {status} redirects to {goal[:200]}")
    default = {4: Reason.HTTP_4XX, 5: Reason.HTTP_5XX}.get(status // 100, Reason.HTTP_OTHER)
    raise PollError(_STATUS_REASONS.get(status, default), f"{where}: status {status}")


def classify(error: Exception, where: str, *, reading: bool = False) -> PollError:
    """Map what aiohttp, the sockets or TLS raised to the nearest reason.

    Args:
        error: What was raised; its causes count too, for aiohttp wraps what it caught.
        where: The address, for the detail.
        reading: Whether the answer had begun.
    """
    causes = list(_causes(error))
    if reading:
        return PollError(Reason.TRUNCATED, f"{where}: the body is damaged or ends too early ({type(error).__name__})")
    for cause in causes:
        # aiohttp's own TLS errors are SSLErrors too, but without what OpenSSL said.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return PollError(Reason.TLS, f"{where}: {_explain_tls(cause)}")
        if isinstance(cause, aiohttp.ClientConnectorDNSError):
            return PollError(Reason.DNS, f"{where}: no address found for the host name ({cause.os_error.args[-1]})")
        if isinstance(cause, UnicodeError):
            return PollError(Reason.DNS, f"{where}: no address found for the host name ({cause.args[-1]})")
        if isinstance(cause, (aiohttp.ClientResponseError, HttpProcessingError)):
            return PollError(Reason.NOT_HTTP, f"{where}: not an HTTP answer{_name_banner(cause.message)}")
    numbers = [number for cause in causes for number in _errnos(cause)]
    # Several numbers come from a name with several addresses: the most specific tells most, and is first in the table.
    for number, reason in _ERRNO_REASONS.items():
        if number in numbers:
            return PollError(reason, f"{where}: {os.strerror(number)}")
    if numbers:
        return PollError(Reason.INTERNAL, f"{where}: {os.strerror(numbers[0])}")
    if isinstance(error, (aiohttp.ClientConnectionError, ConnectionError)):
        # asyncio's TLS servers, so vLLM's, say no more than this to a client without the certificate they want.
        hint = " - does it want a client certificate (cert_file, key_file)?" if where.startswith("https:") else ""
        return PollError(Reason.DISCONNECTED, f"{where}: closed without a whole answer{hint}")
    # No str(error): an unknown error's text may hold a header.
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
    # For a name with several addresses that fail differently, asyncio puts all the errors into one text.
    return [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]


def _explain_tls(error: ssl.SSLError) -> str:
    text = " ".join(str(argument) for argument in error.args)
    hint = next((hint for pattern, hint in _TLS_HINTS if pattern in text), None)
    said = getattr(error, "verify_message", None) or getattr(error, "reason", None) or "TLS failed"
    return f"{said} - {hint}" if hint else str(said)


def _name_banner(message: str) -> str:
    known = next((name for pattern, name in _BANNERS if pattern.search(message)), None)
    return f": it looks like {known}" if known else ""
