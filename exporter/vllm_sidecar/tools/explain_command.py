"""The command `explain-quantiles`: the buckets behind the recent quantiles of a running sidecar."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vllm_sidecar.logs import print_error
from vllm_sidecar.tools.targets import address_of
from vllm_sidecar.vllm.one_answer import one_answer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TIMEOUT = 10.0
LARGEST = 50_000_000
"""Bytes of an answer that are read at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Show how the recent quantiles of a running sidecar came about, bucket by bucket."
    parser.epilog = "example:\n  vllm-sidecar explain-quantiles http://localhost:10190 --latency queue"
    parser.add_argument("url", metavar="URL", help="address of the sidecar")
    parser.add_argument("--target", help="only this target")
    parser.add_argument("--engine", help="only the engine with this number")
    parser.add_argument("--latency", help="only this one, such as time_to_first_token, inter_token_latency or queue")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the explanations that were asked for."""
    try:
        found = list(_wanted(_report(address_of(arguments.url)), arguments))
    except (OSError, ValueError) as error:
        print_error(
            f"{arguments.url}: {error}; URL must be the address of a running sidecar, such as http://HOST:10190"
        )
        return 1
    if not found:
        print_error(f"{arguments.url}: no such latency has observations in the window")
        return 1
    print("\n\n".join("\n".join(_lines(each)) for each in found))
    return 0


def _report(url: str) -> dict[str, Any]:
    """Read the explanations of a sidecar; AnswerError without an answer, ValueError if it is something else."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("not an http:// or https:// address")
    body, _ = one_answer(f"{url.rstrip('/')}/api/v1/quantiles", seconds=TIMEOUT, most_bytes=LARGEST)
    try:
        report = json.loads(body)
    except ValueError:
        raise ValueError("the answer is not that of a sidecar") from None
    if not isinstance(report, dict) or not isinstance(report.get("targets"), list):
        raise ValueError("the answer is not that of a sidecar")  # noqa: TRY004 - sent by a server, not an argument
    return report


def _wanted(report: dict[str, Any], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for target in report["targets"]:
        for each in target.get("quantiles", ()):
            if (
                arguments.target in (None, target["target"])
                and arguments.engine in (None, each["engine"])
                and arguments.latency in (None, each["latency"])
            ):
                yield {**each, "target": target["target"]}


def _lines(each: dict[str, Any]) -> Iterator[str]:
    where = " ".join(f"{name}={each[name]}" for name in ("target", "model_name", "engine") if each[name])
    yield f"{each['latency']} {where}"
    for quantile in each["quantiles"]:
        yield (
            f"  p{100 * quantile['quantile']:<4g}{_seconds(quantile['value']):>10}"
            f"   from buckets alone {_seconds(quantile['interpolated'])}"
        )
    yield f"  {'bucket':>22}{'values':>9}{'exact':>7}{'mean':>10}{'deviation':>11}{'drift':>10}"
    for bucket in each["buckets"]:
        lower, upper = bucket["bounds"]
        bounds = f"{_seconds(lower)} to {_seconds(upper) if upper is not None else '+Inf'}"
        yield (
            f"  {bounds:>22}{bucket['observations']:>9g}{100 * bucket['exact_ratio']:>6.0f}%"
            f"{_seconds(bucket['mean']):>10}{_seconds(bucket['deviation']):>11}{_seconds(bucket['drift']):>10}"
        )
    if each["moving_level_belief"]:
        yield f"  one lognormal with a moving level counts for {100 * each['moving_level_belief']:.0f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return "unknown"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(value) >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g} s"
