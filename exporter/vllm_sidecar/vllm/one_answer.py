"""One answer over HTTP, for commands that need a single one: blocking, in a limited time, and with errors in words."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from concurrent.futures import Future
from threading import Thread


class AnswerError(OSError):
    """There is no answer; the text says why, without names of Python's classes."""


def one_answer(url: str, *, seconds: float, most_bytes: int, accept: str = "*/*") -> tuple[bytes, str]:
    """Return the body of an answer and its type.

    Args:
        url: Of http or https.
        seconds: For all of it. The timeout of a socket is one for each piece of an answer: a server that drips bytes
            would block this forever.
        most_bytes: What is read at most.
        accept: The Accept header.

    Raises:
        AnswerError: There is none with status 200 in time.
    """
    answered: Future[tuple[bytes, str]] = Future()

    def ask() -> None:
        request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - the caller checks the scheme
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
                answered.set_result((answer.read(most_bytes), answer.headers.get("Content-Type", "")))
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            answered.set_exception(error)

    # A daemon, so that the program does not wait for a thread that still reads.
    Thread(target=ask, daemon=True).start()
    try:
        return answered.result(seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AnswerError(_why(error, seconds)) from None


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"did not answer in full within {seconds:g} s"
    if isinstance(error, urllib.error.HTTPError):
        return f"answers with HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"did not answer in full within {seconds:g} s"
    if isinstance(reason, http.client.HTTPException):
        return "answers with something that is not HTTP, or ends in the middle of its answer"
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
