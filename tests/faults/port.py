"""Requests to the sidecar's own port that nobody should send, and clients that nobody should be."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from sidecar_process import started
from table import Group, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = 5.0
MOST_LOG = 60_000
"""Bytes of the log for all requests of the group."""


@dataclass(frozen=True)
class Request:
    """Bytes on a new connection, and what must be answered first."""

    name: str
    sent: bytes
    answered: str
    """A regular expression that the first line of the answer matches; empty if the connection may end without one."""
    forbidden: bytes = b"Traceback"
    clients: int = 1
    pieces: float = 0.0
    """Seconds between two bytes."""
    leaves: bool = False
    """The client does not read."""

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        return f"{'nothing or ' * (not self.answered)}{self.answered or 'an error'}; scrapes continue".replace(
            "|", " or "
        )


def _get(path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    lines = [f"{method} {path} {version}", "Host: localhost", *headers, "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def requests() -> Iterator[Request]:
    """Yield requests that nobody should send."""
    plain = {
        "a path that is not there": ("/nonsense", "404"), "a path upwards": ("/../../etc/passwd", "400|404"), "an encoded path upwards": ("/%2e%2e/%2e%2e/etc/passwd", "400|404"),
        "a runbook upwards": ("/runbooks/..%2f..%2fSECURITY", "400|404"), "a runbook of NUL": ("/runbooks/%00", "400|404"), "a path of 7,000 characters": ("/" + "a" * 7000, "404|414|400"),
        "a path of 70,000 characters": ("/" + "a" * 70_000, "400|414"), "a time that is none": ("/api/v1/history?since=yesterday", "400"), "a time of NaN": ("/api/v1/history?since=nan", "400"),
        "a time of 5,000 digits": ("/api/v1/history?since=" + "9" * 5000, "400|200"), "an unknown target": ("/api/v1/history?target=nonsense", "404"), "an unknown body": ("/debug/last-scrape?target=nonsense", "404|400"),
        "an unknown engine": ("/api/v1/quantiles?engine=nonsense", "404|400|200"), "a script in a query": ("/api/v1/history?target=<script>alert(1)</script>", "404|400"), "a whole URL": ("http://elsewhere.example/metrics", "200|400|403|404"),
    }  # fmt: skip
    for what, (path, answered) in plain.items():
        yield Request(f"GET of {what}", _get(path), answered, b"root:")
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "NONSENSE"):
        yield Request(f"{method} of /metrics", _get("/metrics", method=method), "405|400|501|404")
    yield Request("HEAD of /metrics", _get("/metrics", method="HEAD"), "200")
    yield Request("POST of /-/reload, which is off", _get("/-/reload", "Content-Length: 0", method="POST"), "403")
    for what, header in {
        "protobuf only": "application/vnd.google.protobuf", "OpenMetrics 9.9": "application/openmetrics-text; version=9.9", "a version of letters": "text/plain; version=x", "a q of words": "text/plain;q=high",
        "a q of NaN": "text/plain;q=nan", "a q of -1": "text/plain;q=-1", "nothing": "", "10,000 types": ",".join(["a/b"] * 1500), "a quote that is open": 'text/plain; a="b', "no slash": "text", "control characters": "text/\x7f",
        "PromQL's next version": "text/plain; version=2.0.0; escaping=allow-utf-8", "images": "image/webp,*/*;q=0", "semicolons": ";;;;,;;",
    }.items():  # fmt: skip
        yield Request(f"Accept: {what}", _get("/metrics", f"Accept: {header}"), "200|400")
    for what, header in {
        "gzip with q=0": "gzip;q=0", "an encoding that nobody knows": "klingon", "identity with q=0": "identity;q=0, *;q=0", "zstd and br": "zstd, br", "a q of words": "gzip;q=x", "8,000 characters": "a" * 7000,
    }.items():  # fmt: skip
        yield Request(f"Accept-Encoding: {what}", _get("/metrics", f"Accept-Encoding: {header}"), "200|400")
    for what, host, path, answered in (
        ("of another site, a page", "evil.example", "/", "403"), ("of another site, the API", "evil.example", "/api/v1/status", "403"), ("of another site, metrics", "evil.example", "/metrics", "200"),
        ("of another site with a port", "evil.example:10190", "/", "403"), ("of an address in decimal", "2130706433.example", "/", "403"), ("with a user", "localhost@evil.example", "/", "403|400"), ("with a line of 5,000 characters", "a" * 5000 + ".example", "/", "403|400"),
        ("that is empty", "", "/", "403|400|200"), ("of a name with a dot at its end", "evil.example.", "/", "403"),
    ):  # fmt: skip
        yield Request(
            f"A Host {what}", f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode(), answered
        )
    for what, header in {"another site": "Origin: https://evil.example", "null": "Origin: null", "another site, as Sec-Fetch-Site": "Sec-Fetch-Site: cross-site"}.items():  # fmt: skip
        yield Request(
            f"A reload whose Origin is {what}", _get("/-/reload", header, "Content-Length: 0", method="POST"), "403"
        )
    for what, timeout in {"0": "0", "-5": "-5", "NaN": "nan", "1e999": "1e999", "words": "soon"}.items():
        yield Request(
            f"X-Prometheus-Scrape-Timeout-Seconds: {what}",
            _get("/metrics", f"X-Prometheus-Scrape-Timeout-Seconds: {timeout}"),
            "200|503|400",
        )
    yield from _malformed()
    yield from _clients()


def _malformed() -> Iterator[Request]:
    bad = "400|413|414|431|501|505"
    for what, sent in {
        "random words": b"NONSENSE\r\n\r\n", "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "SSH": b"SSH-2.0-x\r\n\r\n",
        "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n", "a header with a blank in its name": b"GET / HTTP/1.1\r\nA B: c\r\n\r\n", "a header without a colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
        "a length of words": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", "a length of -1": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "a length and chunks": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "a header of 100 kB": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        "a method of 10,000 characters": b"A" * 10_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", "a URL with a blank": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "a header with NUL": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        "a chunk of size zz": b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    }.items():  # fmt: skip
        yield Request(f"Bytes that are not HTTP: {what}", sent, bad + ("|405" if b"POST" in sent else ""), b"aiohttp")
    yield Request(
        "10,000 headers", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 10_000 + b"\r\n", "400|431|200|403"
    )
    yield Request(
        "Twenty requests at once on one connection",
        _get("/-/healthy").replace(b"Connection: close\r\n", b"") * 19 + _get("/-/healthy"),
        "200",
    )
    yield Request(
        "A body of 1 MB with GET", _get("/metrics", "Content-Length: 1000000") + b"a" * 1_000_000, "200|400|413"
    )


def _clients() -> Iterator[Request]:
    yield Request("200 connections that send nothing", b"", "", clients=200, leaves=True)
    yield Request("200 connections that end after half a request", b"GET /metr", "", clients=200, leaves=True)
    yield Request("50 clients that ask and do not read", _get("/metrics"), "", clients=50, leaves=True)
    yield Request(
        "50 clients that send one byte each 20 ms", _get("/metrics")[:40], "", clients=5, pieces=0.02, leaves=True
    )
    yield Request("100 scrapers", _get("/metrics"), "200", clients=100)
    yield Request("100 scrapers that want gzip", _get("/metrics", "Accept-Encoding: gzip"), "200", clients=100)
    yield Request("100 clients of paths that are not there", _get("/nonsense"), "404", clients=100)
    yield Request("100 clients of the status", _get("/api/v1/status"), "200|503", clients=100)
    yield Request("100 clients that send no HTTP", b"NONSENSE\r\n\r\n", "400", clients=100)


def judged(title: str, cases: Sequence[Request]) -> Group:
    """Send all requests to one program; return their rows."""
    rows, slowest = [], 0.0
    with started("--vllm.url", "http://127.0.0.1:1") as (running, base):
        host, port = base.removeprefix("http://").split(":")
        address = host, int(port)
        process = psutil.Process(running.process.pid)
        for case in cases:
            row, seconds = _row(case, address)
            rows.append(row)
            slowest = max(slowest, seconds)
        log, memory, alive = running.log, process.memory_info().rss / 1e6, running.process.poll() is None
    wrong = ["Traceback"] * ("Traceback" in log) + ["log"] * (len(log) > MOST_LOG) + ["ended"] * (not alive)
    if wrong:
        rows[-1] = rows[-1]._replace(observed=f"after all of these: {', '.join(wrong)}", held=False)
    return Group(
        title, rows, f"A scrape after each took {1e3 * slowest:.0f} ms at most, and {memory:.0f} MB were resident."
    )


def _row(case: Request, address: tuple[str, int]) -> tuple[Row, float]:
    with contextlib.ExitStack() as stack:
        answers = [_answer(case, stack.enter_context(socket.create_connection(address, timeout=SECONDS)))
                   for _ in range(case.clients)]  # fmt: skip
        began = time.monotonic()
        scraped = _exchange(_get("/metrics"), address)
        seconds = time.monotonic() - began
    firsts = {answer.partition(b"\r\n")[0].decode("latin-1") for answer in answers}
    right = case.leaves or all(re.match(rf"HTTP/1\.[01] ({case.answered}) ", first) for first in firsts)
    wrong = ["not as promised"] * (not right)
    wrong += ["the next scrape failed"] * (not scraped.startswith(b"HTTP/1.1 200"))
    wrong += ["shown"] * any(case.forbidden in answer for answer in answers)
    observed = "not read" if case.leaves else ", ".join(sorted(first[:60] or "nothing" for first in firsts))
    return Row(case.name, case.promise, observed + (f" [{', '.join(wrong)}]" if wrong else ""), not wrong), seconds


def _answer(case: Request, client: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        if case.pieces:
            for byte in case.sent:
                client.sendall(bytes([byte]))
                time.sleep(case.pieces)
        else:
            client.sendall(case.sent)
    return b"" if case.leaves else _read(client)


def _exchange(sent: bytes, address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=SECONDS) as client:
        client.sendall(sent)
        return _read(client)


def _read(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(OSError):
        while (part := client.recv(65_536)) and len(found) < 10_000_000:
            found += part
            if _is_whole(found):
                break
    return found


def _is_whole(found: bytes) -> bool:
    """Return whether an answer is whole, on a connection that the server keeps open."""
    head, separator, body = found.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(separator) and length is not None and len(body) >= int(length[1])
