"""Names, labels and numbers of series that no server should have."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from changes import ENGINE, added, changed
from upstream import BODY, http
from watched import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upstream import Answer


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
                f'vllm:engine_sleep_state{{{ENGINE},sleep_state="{state}"}} 1'
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
            line.replace("{{", "{").replace("}}", "}").replace("ENGINE", ENGINE).replace("{n}", str(n))
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
            line.replace("{{", "{").replace("}}", "}").replace("ENGINE", ENGINE).replace("{n}", str(first + n)) for n in range(many)
        ) + "\n")  # fmt: skip

    return answer
