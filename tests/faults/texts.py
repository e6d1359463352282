"""Bodies that are not an exposition, or not quite."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from changes import added, always, changed, in_turns, same, with_value, without
from upstream import BODY, http
from watched import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator


_VALUE = re.compile(r"^(\S+(?:\{.*\})?) (\S+)$", re.MULTILINE)


def texts() -> Iterator[Fault]:
    """Yield bodies that are not an exposition, or not quite."""
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
