"""Answers of /metrics that no server should give, and those that some do: HTTP, encodings, text and values."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import re
import socket
import struct
import zlib
from typing import TYPE_CHECKING

from upstream import BODY, Handler, http
from watched import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upstream import Answer

_ENGINE = 'engine="0",model_name="tiny"'
_VALUE = re.compile(r"^(\S+(?:\{.*\})?) (\S+)$", re.MULTILINE)


def always(answer: Answer) -> Callable[[], Answer]:
    """Return a function that gives one answer each time."""
    return lambda: answer


def changed(change: Callable[[str], str]) -> Callable[[], Answer]:
    """Return a function that answers with a changed body."""
    return lambda: http(change(BODY.text()))


def added(lines: str) -> Callable[[], Answer]:
    """Return a function that answers with lines added to the body."""
    return changed(lambda text: text + lines + "\n")


def with_value(name: str, value: str) -> Callable[[], Answer]:
    """Return a function that answers with one value for all samples whose name matches."""
    pattern = re.compile(rf"^({name}(?:\{{[^\n]*\}})?) \S+$", re.MULTILINE)
    return changed(lambda text: pattern.sub(lambda match: f"{match[1]} {value}", text))


def in_turns(*changes: Callable[[str], str]) -> Callable[[], Answer]:
    """Return a function that answers with one changed body after the other."""
    cycle = itertools.cycle(changes)
    return lambda: http(next(cycle)(BODY.text()))


def without(pattern: str) -> Callable[[str], str]:
    """Return a change that removes lines."""
    compiled = re.compile(pattern)
    return lambda text: "\n".join(line for line in text.split("\n") if not compiled.search(line))


def same(text: str) -> str:
    """Return the body as it is."""
    return text


# HTTP: statuses

STATUSES = {
    100: "not_http", 101: "http_other", 201: "http_other", 202: "http_other", 203: "http_other", 204: "http_other not_http",
    205: "http_other", 206: "http_other", 226: "http_other", 300: "http_other redirect", 301: "redirect http_other",
    302: "redirect http_other", 303: "redirect http_other", 304: "http_other not_http", 307: "redirect http_other",
    308: "redirect http_other", 400: "http_4xx", 401: "http_401", 402: "http_4xx", 403: "http_403", 404: "http_404",
    405: "http_4xx", 406: "http_4xx", 407: "http_4xx", 408: "http_4xx", 410: "http_4xx", 413: "http_4xx", 418: "http_4xx",
    421: "http_4xx", 425: "http_4xx", 426: "http_4xx", 429: "http_429 http_4xx", 431: "http_4xx", 451: "http_4xx",
    500: "http_5xx", 501: "http_5xx", 502: "http_5xx", 503: "http_5xx", 504: "http_5xx", 505: "http_5xx", 507: "http_5xx",
    508: "http_5xx", 511: "http_5xx", 529: "http_5xx", 599: "http_5xx", 600: "http_other", 799: "http_other", 999: "http_other",
}  # fmt: skip


def statuses() -> Iterator[Fault]:
    """Yield an answer with each status."""
    for status, reasons in STATUSES.items():
        yield Fault(f"Status {status}", always(http("sorry", f"{status} Sorry")), reasons)
    other = "http://user:secret@elsewhere.example/?token=secret"
    for name, location in {
        "to itself": "metrics", "to another origin with a password": other, "with 8 kB of control characters": "/\x01" * 4000,
        "to a file": "file:///etc/passwd", "to a cloud's metadata": "http://169.254.169.254/",
    }.items():  # fmt: skip
        yield Fault(f"A redirect {name}", always(http("", "302 Found", f"Location: {location}\r\n")),
                    "redirect http_other not_http")  # fmt: skip
    yield Fault("A redirect without a Location", always(http("", "302 Found", "")), "redirect http_other")


# HTTP: connections and framing


def writes(*pieces: bytes, pause: float = 0.0, hang: bool = False) -> Handler:
    """Return an answer in pieces, which ends or hangs."""

    async def write(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if hang:
            await asyncio.sleep(30.0)

    return write


def endless(piece: bytes, pause: float = 0.01, head: bytes = b"") -> Handler:
    """Return an answer that never ends."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


async def reset(writer: asyncio.StreamWriter) -> None:
    """Write half an answer, and reset the connection."""
    writer.write(http(BODY.text())[:2000])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _plain(headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{headers}\r\n".encode("latin1") + body


def _chunks(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return _plain("Transfer-Encoding: chunked\r\n", body + end)


def framing() -> Iterator[Fault]:
    """Yield connections that break, and messages that are no HTTP or nearly."""
    text = BODY.text().encode()
    head, size = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n", len(text)
    slow = "timeout"
    cut = "disconnected truncated not_http timeout"
    bad = "not_http disconnected truncated unreadable http_other internal timeout"
    fine = "up"
    known = {
        "A reset in the middle of the body": (reset, cut),
        "The connection ends in the middle of the body": (writes(http(text)[: size // 2]), cut),
        "The connection ends in the headers": (writes(head), cut),
        "The connection ends at once": (writes(), cut),
        "No answer": (writes(hang=True), slow),
        "Half of the headers, then nothing": (writes(head, hang=True), slow),
        "All but the last byte, then nothing": (writes(http(text)[:-1], hang=True), slow),
        "One byte of the body each 20 ms": (endless(b"#", 0.02, head + b"Content-Length: 100000\r\n\r\n"), slow),
        "One header each 20 ms": (endless(b"X: 1\r\n", 0.02, head), "timeout not_http"),
        "An endless 100 Continue": (endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.001), "timeout not_http"),
        "An endless body": (endless(b"# a\n" * 5000, 0.001, head + b"\r\n"), "timeout too_large"),
        "Endless chunks": (endless(b"4\r\n# a\n\r\n" * 999, 0.001, head + b"Transfer-Encoding: chunked\r\n\r\n"), "timeout too_large"),
        "Content-Length of 100 GB": (writes(_plain("Content-Length: 100000000000\r\n", text)), "too_large"),
        "Content-Length of 30 digits": (writes(_plain("Content-Length: " + "9" * 30 + "\r\n", text)), "too_large not_http"),
        "Content-Length of 5,000 digits": (writes(_plain("Content-Length: " + "9" * 5000 + "\r\n", text)), "too_large not_http"),
        "Content-Length of -5": (writes(_plain("Content-Length: -5\r\n", text)), bad),
        "Content-Length of x": (writes(_plain("Content-Length: x\r\n", text)), bad),
        "Content-Length of +5": (writes(_plain("Content-Length: +5\r\n", text)), bad),
        "Two different lengths": (writes(_plain(f"Content-Length: {size}\r\nContent-Length: 5\r\n", text)), bad),
        "A length and chunks": (writes(_plain(f"Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n", text)), bad),
        "A length that is too large": (writes(_plain(f"Content-Length: {size + 999}\r\n", text)), cut),
        "A length that is too small": (writes(_plain(f"Content-Length: {size - 30}\r\n", text)), bad),
        "Chunk of size zz": (writes(_plain("Transfer-Encoding: chunked\r\n", b"zz\r\n" + text)), bad),
        "Chunk of size -5": (writes(_plain("Transfer-Encoding: chunked\r\n", b"-5\r\n" + text)), bad),
        "Chunk of size 2^64": (writes(_plain("Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n" + text)), bad),
        "Chunk of a size of 60 kB": (writes(_plain("Transfer-Encoding: chunked\r\n", b"0" * 60_000 + b"\r\n")), bad),
        "No last chunk": (writes(_chunks(text, end=b"")), cut),
        "Chunks of one byte": (writes(_chunks(*(bytes([each]) for each in text[:3000]), text[3000:])), fine),
        "Chunk extensions": (writes(_plain("Transfer-Encoding: chunked\r\n", b"%x;a=b;c\r\n%s\r\n0\r\n\r\n" % (size, text))), fine),
        "A thousand trailers": (writes(_chunks(text, end=b"0\r\n" + b"X: 1\r\n" * 1000 + b"\r\n")), f"up|{bad}"),
        "HTTP/1.0 without a length": (writes(b"HTTP/1.0 200 OK\r\n\r\n" + text), fine),
        "HTTP/0.9": (writes(text), bad),
        "HTTP/2 frames": (writes(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 9), bad),
        "HTTP/9.9": (writes(b"HTTP/9.9 200 OK\r\n\r\n" + text), f"up|{bad}"),
        "The banner of an SSH server": (writes(b"SSH-2.0-OpenSSH_9.6\r\n"), bad),
        "The greeting of a mail server": (writes(b"220 mail ESMTP\r\n"), bad),
        "An alert of TLS": (writes(b"\x15\x03\x03\x00\x02\x02\x28"), bad),
        "Random bytes": (writes(os.urandom(4096)), bad),
        "Status line without a number": (writes(b"HTTP/1.1 two hundred\r\n\r\n" + text), bad),
        "Status of five digits": (writes(b"HTTP/1.1 20000 OK\r\n\r\n" + text), bad),
        "Status of -200": (writes(b"HTTP/1.1 -200 OK\r\n\r\n" + text), bad),
        "A reason of 100 kB": (writes(b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n" + text), bad),
        "A header of 1 MB": (writes(_plain(f"X: {'a' * 1_000_000}\r\n", text)), bad),
        "100,000 headers": (writes(_plain("X: 1\r\n" * 100_000, text)), bad),
        "1,000 cookies": (writes(_plain("Set-Cookie: a=b\r\n" * 1000, text)), f"up|{bad}"),
        "A header without a colon": (writes(_plain("nonsense\r\n", text)), f"up|{bad}"),
        "A folded header": (writes(_plain("X: a\r\n b\r\n", text)), f"up|{bad}"),
        "A header with NUL": (writes(_plain("X: a\x00b\r\n", text)), f"up|{bad}"),
        "Bare line feeds": (writes(b"HTTP/1.1 200 OK\nContent-Type: text/plain\n\n" + text), f"up|{bad}"),
        "Keep-alive is promised, and the connection ends": (writes(http(text, headers="Connection: keep-alive\r\n")), fine),
        "Garbage after the body": (writes(http(text) + b"garbage\r\n\r\n"), f"up|{bad}"),
        "Two answers to one request": (writes(http(text) * 2), fine),
    }  # fmt: skip
    for name, (answer, expected) in known.items():
        yield Fault(name, always(answer), expected)


# Encodings and types


def encodings() -> Iterator[Fault]:
    """Yield bodies in encodings and types that were not asked for."""
    text = BODY.text().encode()
    packed = gzip.compress(text)
    bomb = gzip.compress(bytes(200_000_000), 9)
    refused = "bad_encoding"
    for name, encoding, body in (
        ("gzip", "gzip", packed), ("gzip that is cut", "gzip", packed[:500]), ("gzip with flipped bytes", "gzip", packed[:99] + b"xx" + packed[101:]),
        ("gzip and garbage", "gzip", packed + b"xx"), ("gzip of 10,000 members", "gzip", gzip.compress(b"") * 10_000),
        ("gzip that inflates to 200 MB", "gzip", bomb), ("gzip twice", "gzip, gzip", gzip.compress(packed)),
        ("raw deflate", "deflate", zlib.compress(text)[2:-4]), ("zstd", "zstd", text), ("br", "br", text), ("compress", "compress", text),
        ("an encoding that nobody knows", "x-secret", text), ("an encoding of 8,000 characters", "a" * 8000, text),
    ):  # fmt: skip
        yield Fault(f"Content-Encoding: {name}", always(http(body, headers=f"Content-Encoding: {encoding}\r\n")),
                    f"{refused} not_http")  # fmt: skip
    yield Fault("Content-Encoding: identity", always(http(text, headers="Content-Encoding: identity\r\n")), "up")
    for name, kind in {
        "application/octet-stream": "application/octet-stream", "protobuf": "application/vnd.google.protobuf",
        "control characters and Latin-1": "text/\x7fé", "a charset that nobody knows": "text/plain; charset=klingon",
        "20,000 characters": "text/plain;" + "a" * 7000, "nothing": "",
    }.items():  # fmt: skip
        header = f"Content-Type: {kind}\r\n" if kind else ""
        yield Fault(f"A good body as {name}", always(http(text, headers=header)), "up|not_http unreadable bad_encoding")
    yield Fault("A good body without a type", always(http(text, headers="")), "up")
    yield Fault(
        "A login page",
        always(http("<html><form>Log in</form></html>", headers="Content-Type: text/html\r\n")),
        "not_prometheus unreadable",
    )
    yield Fault(
        "JSON", always(http('{"a": 1}', headers="Content-Type: application/json\r\n")), "not_prometheus unreadable"
    )
    yield Fault(
        "JSON of 2 MB", always(http('{"a": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")), "not_prometheus unreadable"
    )


# Text


def texts() -> Iterator[Fault]:
    """Yield bodies that are no exposition, or nearly."""
    unread = "unreadable not_prometheus truncated no_vllm_metrics empty"
    counted = "up:rejected_lines"
    yield from (
        Fault(f"A body of {name}", always(http(body)), unread)
        for name, body in {
            "nothing": b"", "one byte": b"a", "one line feed": b"\n", "64 kB of NUL": bytes(65_536), "random bytes": os.urandom(200_000),
            "UTF-16": BODY.text().encode("utf-16"), "UTF-32": BODY.text().encode("utf-32"), "blanks": b" " * 5000, "comments": b"# a\n" * 5000,
            "only HELP lines": b"# HELP a b\n" * 99, "only go_ metrics": b"go_goroutines 1\n", "EBCDIC": BODY.text().encode("cp037", "replace"),
            "YAML": b"a:\n  - b\n", "a Python traceback": b"Traceback (most recent call last):\n  File\nValueError: x\n",
            "one open quote of 1 MB": b'a{b="' + b"c" * 1_000_000, "Windows line ends": BODY.text().replace("\n", "\r\n").encode(),
        }.items()
    )  # fmt: skip
    yield Fault("A byte order mark", changed(lambda text: "\ufeff" + text), "up")
    yield Fault("The last line has no end", changed(lambda text: text.rstrip("\n")), "truncated")
    yield Fault(
        "OpenMetrics without its end",
        lambda: http(BODY.text(), headers="Content-Type: application/openmetrics-text; version=1.0.0\r\n"),
        "up|truncated unreadable",
    )
    for name, line in {
        "an open quote": 'vllm:a{b="c 1', "an open brace": "vllm:a{b 1", "no value": "vllm:a", "two values of text": "vllm:a b c", "a value of words": "vllm:a one",
        "a number with underscores": "vllm:a 1_000", "a hexadecimal number": "vllm:a 0x1p3z", "digits of another script": "vllm:a \u0661", "a name that begins with a digit": "1vllm 1",
        "a name with a dash": "vllm:a-b 1", "a label without a value": "vllm:a{b} 1", "a label without quotes": "vllm:a{b=c} 1", "two commas": 'vllm:a{b="c",,} 1',
        "a label twice": 'vllm:a{b="c",b="d"} 1', "an empty label name": 'vllm:a{="c"} 1', "an open escape": 'vllm:a{b="c\\"} 1', "a control character": "vllm:a\x01 1",
        "a timestamp of words": "vllm:a 1 now", "an exemplar in the text format": 'vllm:a_bucket{le="1"} 1 # {trace="x"} 1', "a TYPE without a type": "# TYPE vllm:a",
        "a TYPE that nobody knows": "# TYPE vllm:a foo", "a name in quotes": '{"vllm.a",b="c"} 1', "only braces": "{} 1", "a comma first": 'vllm:a{,b="c"} 1',
    }.items():  # fmt: skip
        yield Fault(f"A line with {name}", added(line), "up")
    yield Fault(
        "An invalid line whose value changes",
        in_turns(*(lambda text, n=n: f"{text}vllm:a{{b {n}\n" for n in range(9))),
        counted,
    )
    yield Fault(
        "5,000 different invalid lines",
        added("\n".join(f"vllm:a{{b{n}" for n in range(5000))),
        f"{counted}|not_prometheus",
    )
    yield Fault("A line of 10 MB", added("vllm:a" + "b" * 10_000_000 + " 1"), "up:line_length|too_large")
    yield Fault("A name of 20 kB", added("vllm:" + "b" * 20_000 + " 1"), "up:line_length name_length")
    yield Fault("A name of 2,000 suffixes", added("vllm:a" + "_created" * 2000 + " 1"), "up:line_length name_length")
    yield Fault(
        "A label of invalid UTF-8",
        lambda: http(BODY.text().encode() + b'vllm:num_requests_running{engine="0",model_name="\xff\xfe"} 1\n'),
        "up",
    )
    yield Fault(
        "500 labels on a line", added("vllm:a{" + ",".join(f'l{n}="v"' for n in range(500)) + "} 1"), "up:labels"
    )
    yield Fault("A number of 5,000 digits", added(f"vllm:a {'9' * 5000}"), "up:number_length")
    yield Fault(
        "A number of 400 digits",
        with_value("vllm:num_requests_running", "9" * 400),
        "up:number_length rejected_lines not_finite impossible",
    )
    yield Fault("Timestamps on all samples", changed(lambda text: _VALUE.sub(r"\1 \2 1700000000000", text)), "up")
    yield Fault("Timestamps of the year 9999", changed(lambda text: _VALUE.sub(r"\1 \2 253370764800000", text)), "up")
    yield Fault("The body twice", changed(lambda text: text + text), "up")
    yield Fault("The body backwards", changed(lambda text: "\n".join(reversed(text.split("\n"))) + "\n"), "up")
    yield Fault(
        "Blanks and tabs between everything",
        changed(lambda text: text.replace(" ", " \t ")),
        "up|unreadable not_prometheus",
    )
    yield Fault("Types after samples", changed(lambda text: text + without("^[^#]")(text)), "up")
    yield Fault("No types", changed(without("^# TYPE")), "up|not_an_engine unreadable")
    yield Fault("No comments at all", changed(without("^#")), "up|not_an_engine unreadable")
    yield Fault(
        "A gauge that is said to be a counter",
        changed(lambda text: text.replace("num_requests_running gauge", "num_requests_running counter")),
        "up",
    )
    yield Fault(
        "A counter that is said to be a gauge",
        changed(lambda text: text.replace("prompt_tokens_total counter", "prompt_tokens_total gauge")),
        "up",
    )
    yield Fault(
        "A histogram that is said to be a summary",
        changed(lambda text: re.sub("(time_to_first_token_seconds) histogram", r"\1 summary", text)),
        "up",
    )
    yield Fault(
        "Other prefix next to the usual one",
        changed(lambda text: text + text.replace("vllm:", "ray_vllm_")),
        "up|several_servers not_an_engine",
    )
    yield Fault(
        "Two versions of vLLM in turns",
        in_turns(same, lambda text: text.replace("inter_token_latency", "time_per_output_token")),
        "up|several_servers",
    )


# Values


def values() -> Iterator[Fault]:
    """Yield values that no server has, in gauges, counters and histograms."""
    gauges = "vllm:(?:num_requests_running|num_requests_waiting|kv_cache_usage_perc)"
    for name, value, counter in (
        ("NaN", "NaN", "not_finite"), ("infinite", "+Inf", "not_finite impossible"), ("minus infinite", "-Inf", "not_finite impossible negative"),
        ("-1", "-1", "negative"), ("1.7e308", "1.7e308", "impossible"), ("1e999", "1e999", "not_finite impossible rejected_lines"), ("-1.7e308", "-1.7e308", "negative impossible"),
    ):  # fmt: skip
        yield Fault(f"All gauges are {name}", with_value(gauges, value), f"up:{counter}")
        yield Fault(f"All counters are {name}", with_value(r"vllm:\w+_total", value), f"up:{counter} bad_histogram")
        yield Fault(f"All sums are {name}", with_value(r"vllm:\w+_sum", value), f"up:{counter} bad_histogram sum_fell")
        yield Fault(f"All buckets are {name}", with_value(r"vllm:\w+_bucket", value), f"up:{counter} bad_histogram")
        yield Fault(f"All counts are {name}", with_value(r"vllm:\w+_count", value), f"up:{counter} bad_histogram")
    for name in (
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "process_start_time_seconds",
        r"vllm:prompt_tokens_total",
        r"vllm:request_success_total",
    ):
        yield Fault(f"{name.partition(':')[2] or name} is 2^63", with_value(name, "9223372036854775808"), "up")
        yield Fault(f"{name.partition(':')[2] or name} is 5e-324", with_value(name, "5e-324"), "up")
        yield Fault(
            f"{name.partition(':')[2] or name} is missing each second time",
            in_turns(same, without(name)),
            "up|several_servers not_an_engine",
        )
    yield Fault("KV usage is 200 %", with_value("vllm:kv_cache_usage_perc", "2.0"), "up:impossible")
    yield Fault(
        "A billion and one requests run", with_value("vllm:num_requests_running", "1000000001"), "up:impossible"
    )
    yield Fault(
        "One poll has 1.7e308 finished requests, the next are right",
        in_turns(lambda text: re.sub(r"(request_success_total\{[^\n]*\}) \S+", r"\1 1.7e308", text), *[same] * 20),
        "up:impossible",
    )
    yield Fault(
        "One poll has 1e12 finished requests, the next are right",
        in_turns(lambda text: re.sub(r"(request_success_total\{[^\n]*\}) \S+", r"\1 1e12", text), *[same] * 20),
        "up:impossible",
    )
    yield Fault(
        "Counters fall to half at each second poll",
        in_turns(
            same,
            lambda text: re.sub(
                r"^(\S+_(?:total|count|sum|bucket)\S*) (\S+)$",
                lambda m: f"{m[1]} {float(m[2]) / 2:.0f}",
                text,
                flags=re.MULTILINE,
            ),
        ),
        "up|several_servers",
    )
    yield Fault(
        "The start time goes back and forth",
        in_turns(
            same,
            lambda text: re.sub(
                r"(?m)^(process_start_time_seconds) (\S+)$", lambda m: f"{m[1]} {float(m[2]) - 999}", text
            ),
        ),
        "up|several_servers",
    )
    yield Fault(
        "The start time is later at each poll",
        in_turns(
            *(
                lambda text, n=n: re.sub(
                    r"(?m)^(process_start_time_seconds) (\S+)$", lambda m: f"{m[1]} {float(m[2]) + n}", text
                )
                for n in range(30)
            )
        ),
        "up|several_servers",
    )
    yield Fault(
        "Sums fall, counts grow",
        in_turns(
            *(
                lambda text, n=n: re.sub(
                    r"(?m)^(\S+_sum\{[^\n]*\}) (\S+)$", lambda m: f"{m[1]} {float(m[2]) / (n + 1)}", text
                )
                for n in range(30)
            )
        ),
        "up:sum_fell bad_histogram impossible",
    )
    yield Fault("No sums", changed(without(r"_sum[{ ]")), "up")
    yield Fault("No counts", changed(without(r"_count[{ ]")), "up")
    yield Fault("No +Inf bucket", changed(without(r'le="\+Inf"')), "up")
    yield Fault("Counts differ from +Inf", with_value(r"vllm:\w+_count", "7"), "up")
    yield Fault(
        "Buckets fall",
        changed(lambda text: re.sub(r'(_bucket\{[^\n]*le="0\.1"[^\n]*\}) \S+', r"\1 1e9", text)),
        "up:bad_histogram impossible",
    )
    yield Fault("Bounds of words", added(f'vllm:time_to_first_token_seconds_bucket{{{_ENGINE},le="fast"}} 1'), "up")
    yield Fault(
        "Bounds of NaN, infinite and 1e999",
        added(
            "\n".join(
                f'vllm:time_to_first_token_seconds_bucket{{{_ENGINE},le="{bound}"}} 1'
                for bound in ("NaN", "-Inf", "1e999")
            )
        ),
        "up",
    )
    yield Fault(
        "Bounds differ at each poll",
        in_turns(*(lambda text, n=n: text.replace('le="0.1"', f'le="0.1{n}"') for n in range(1, 9))),
        "up",
    )
    yield Fault("A histogram of one bucket", changed(without(r'le="[0-9]')), "up")
    for many in (50, 500, 5000):
        yield Fault(
            f"A histogram of {many:,} buckets",
            added(
                "\n".join(
                    f'vllm:request_queue_time_seconds_bucket{{{_ENGINE},le="{n / 7 + 1e-5:.6f}"}} {n}'
                    for n in range(many)
                )
            ),
            "up",
        )


# Labels, names, and how many


def labels() -> Iterator[Fault]:
    """Yield names of models, engines and labels that no server should have."""
    for name, value in {
        "quotes and backslashes": r"a\"b\\c\nd", "a script": "<script>alert(1)</script>", "templates": "{{ $labels.x }}${x}%s%(x)s",
        "2,000 characters": "m" * 2000, "20,000 characters": "m" * 20_000, "control characters": "\x01\x02\x1b[31m", "right-to-left marks and emoji": "\u202e\U0001f600\u0301",
        "lone surrogates": "\udc80", "a carriage return": "a\rb", "nothing": "", "a path": "../../../etc/passwd", "a URL with a password": "http://user:hunter2@h/",
    }.items():  # fmt: skip
        yield Fault(f"A model whose name is {name}", changed(lambda text, value=value: text.replace('model_name="tiny"', f'model_name="{value}"')),
                    "up|no_engines not_an_engine unreadable")  # fmt: skip
        yield Fault(f"An engine whose label is {name}", changed(lambda text, value=value: text.replace('engine="0"', f'engine="{value}"')),
                    "up|no_engines not_an_engine unreadable")  # fmt: skip
    for label in ("target", "instance", "job", "pod", "le", "quantile", "source", "__name__", "replica"):
        yield Fault(
            f"A label {label} on all series",
            changed(lambda text, label=label: text.replace('{engine="0"', f'{{{label}="x",engine="0"')),
            "up|not_an_engine unreadable",
        )
    yield Fault(
        "A max_lora of 5,000 digits",
        added(
            f'vllm:lora_requests_info{{max_lora="{"9" * 5000}",running_lora_adapters="",waiting_lora_adapters=""}} 1'
        ),
        "up",
    )
    yield Fault(
        "10,000 adapters",
        added(
            f'vllm:lora_requests_info{{max_lora="4",running_lora_adapters="{",".join(map(str, range(10_000)))}",waiting_lora_adapters=""}} 1'
        ),
        "up",
    )
    for name, value in {
        "words": "many",
        "NaN": "nan",
        "infinite": "inf",
        "-1": "-1",
        "5,000 digits": "9" * 5000,
    }.items():
        yield Fault(
            f"Blocks of the KV cache: {name}",
            changed(lambda text, value=value: re.sub('num_gpu_blocks="[^"]*"', f'num_gpu_blocks="{value}"', text)),
            "up",
        )
    yield Fault(
        "All sleep states at once",
        added(
            "\n".join(
                f'vllm:engine_sleep_state{{{_ENGINE},sleep_state="{state}"}} 1'
                for state in ("awake", "weights_offloaded", "discard_all")
            )
        ),
        "up",
    )


def floods() -> Iterator[Fault]:
    """Yield numbers of series that no server should have."""
    for many, what, line in (
        (10_000, "unknown families", "vllm:unknown_{n} 1"), (5_000, "reasons", 'vllm:request_success_total{{ENGINE,finished_reason="r{n}"}} 1'),
        (20_000, "routes", 'http_requests_total{{handler="/r{n}",method="GET",status="2xx"}} 1'), (1_000, "engines", 'vllm:num_requests_running{{engine="{n}",model_name="tiny"}} 1'),
        (10_000, "models", 'vllm:num_requests_running{{engine="0",model_name="m{n}"}} 1'), (5_000, "positions of drafts", 'vllm:spec_decode_num_accepted_tokens_per_pos_total{{ENGINE,position="{n}"}} 1'),
        (20_000, "series of one name", 'vllm:cache_config_info{{ENGINE,x="{n}"}} 1'), (4_000, "names", "other_{n} 1"),
    ):  # fmt: skip
        lines = "\n".join(
            line.replace("{{", "{").replace("}}", "}").replace("ENGINE", _ENGINE).replace("{n}", str(n))
            for n in range(many)
        )
        yield Fault(f"{many:,} {what}", added(lines), "up|not_an_engine several_servers")
        yield Fault(
            f"{many // 10:,} {what}, new ones at each poll", _new(line, many // 10), "up|not_an_engine several_servers"
        )


def _new(line: str, many: int) -> Callable[[], Answer]:
    numbers = itertools.count(1)

    def answer() -> Answer:
        first = next(numbers) * 1_000_000
        return http(BODY.text() + "\n".join(
            line.replace("{{", "{").replace("}}", "}").replace("ENGINE", _ENGINE).replace("{n}", str(first + n)) for n in range(many)
        ) + "\n")  # fmt: skip

    return answer


GROUPS = {
    "Statuses of /metrics": statuses,
    "Connections and framing of /metrics": framing,
    "Encodings and types of /metrics": encodings,
    "Text of /metrics": texts,
    "Values of /metrics": values,
    "Labels of /metrics": labels,
    "Floods of series in /metrics": floods,
}
