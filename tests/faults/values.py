"""Values that no server has, in gauges, counters and histograms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from changes import ENGINE, added, changed, in_turns, same, valued, with_value, without
from watched import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator


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
            valued("process_start_time_seconds", lambda value: float(value) - 999),
        ),
        "up|several_servers",
    )
    yield Fault(
        "The start time is later at each poll",
        in_turns(*(valued("process_start_time_seconds", lambda value, n=n: float(value) + n) for n in range(30))),
        "up|several_servers",
    )
    yield Fault(
        "Sums fall, counts grow",
        in_turns(*(valued(r"\w+:\w+_sum", lambda value, n=n: float(value) / (n + 1)) for n in range(30))),
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
    yield Fault("Bounds of words", added(f'vllm:time_to_first_token_seconds_bucket{{{ENGINE},le="fast"}} 1'), "up")
    yield Fault(
        "Bounds of NaN, infinite and 1e999",
        added(
            "\n".join(
                f'vllm:time_to_first_token_seconds_bucket{{{ENGINE},le="{bound}"}} 1'
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
                    f'vllm:request_queue_time_seconds_bucket{{{ENGINE},le="{n / 7 + 1e-5:.6f}"}} {n}'
                    for n in range(many)
                )
            ),
            "up",
        )
