"""Percentiles of the running sidecar and of Prometheus beside every value that a real vLLM observed.

    VLLM_SIDECAR_TEST_URL=http://127.0.0.1:8000 VLLM_SIDECAR_TRUTH=F python tests/bench/bench_live_accuracy.py [SECONDS]

The server is under load meanwhile, and a stat logger of its own writes into the file F what each of its steps observed,
a line of JSON each: {"time": Unix time, "ttft": [s], "itl": [s], "finished": [{"queue": s, "e2e": s}]}. Sidecar and
Prometheus are started here. Each 15 s what both say of the last minute is held against the values of that minute, for
the sidecar against as many of the last ones as it says it saw: its window begins at a poll. Without the two variables
nothing is done.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from exactly import exact
from prometheus_process import configuration, job, prometheus
from sidecar_process import started

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_process import Prometheus

WINDOW, EVERY, SECONDS = 60.0, 15.0, 180.0
QS = (0.5, 0.9, 0.95, 0.99)
LEAST = 20
"""Observations in a window below which a percentile is hardly one."""
FAMILIES = {
    "TTFT": ("time_to_first_token", "time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
    "ITL": ("inter_token_latency", "inter_token_latency_seconds", "vllm:inter_token_latency_seconds"),
    "queue": ("queue", "request_queue_seconds", "vllm:request_queue_time_seconds"),
    "e2e": ("request", "request_seconds", "vllm:e2e_request_latency_seconds"),
}
"""Family -> its value of the label `latency`, the sidecar's name and vLLM's."""


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - what the user named
        text: str = answer.read().decode()
        return text


def of_sidecar(base: str) -> tuple[float, dict[tuple[str, float], float], dict[str, int]]:
    """Return the Unix time of the sidecar's last poll, its recent percentiles, and of how many values they are."""
    text = get(f"{base}/metrics")
    at = float(
        re.findall(r'^vllm_sidecar_last_success_timestamp_seconds\{source="vllm"\} (\S+)$', text, re.MULTILINE)[0]
    )
    found, counts = {}, {}
    for family, (latency, name, _) in FAMILIES.items():
        pattern = rf'^vllm_sidecar_recent_{name}\{{.*quantile="([\d.]+)"\}} (\S+)$'
        found |= {(family, float(q)): float(value) for q, value in re.findall(pattern, text, re.MULTILINE)}
        seen = rf'^vllm_sidecar_recent_latency_observations\{{.*latency="{latency}"\}} (\S+)$'
        counts[family] = sum(int(float(count)) for count in re.findall(seen, text, re.MULTILINE))
    return at, found, counts


def of_prometheus(running: Prometheus, at: float) -> dict[tuple[str, float], float]:
    """Return what `histogram_quantile` makes of vLLM's own buckets over the minute before a Unix time."""
    found = {}
    for family, (_, _, name) in FAMILIES.items():
        for q in QS:
            expr = f"histogram_quantile({q}, sum by (le) (rate({name}_bucket[1m])))"
            for one in running.query(expr, time=at):
                found[family, q] = float(one["value"][1])
    return found


def truth(lines: Sequence[Mapping[str, Any]], begin: float, at: float) -> dict[str, list[float]]:
    """Return all values between two Unix times by family, in the order in which they were observed."""
    values: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if begin < line["time"] <= at:
            values["TTFT"] += line["ttft"]
            values["ITL"] += line["itl"]
            for request in line["finished"]:
                values["queue"].append(request["queue"])
                values["e2e"].append(request["e2e"])
    return values


def main() -> None:
    url, file = os.environ.get("VLLM_SIDECAR_TEST_URL"), os.environ.get("VLLM_SIDECAR_TRUTH")
    if not url or not file or not shutil.which("prometheus"):
        print("skipped: VLLM_SIDECAR_TEST_URL and VLLM_SIDECAR_TRUTH name no server, or prometheus is missing")
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seen = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = stack.enter_context(prometheus(folder, configuration(5, job("vllm", url))))
        _, sidecar = stack.enter_context(started("--vllm.url", url))
        time.sleep(WINDOW + 5.0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            at, ours, many = of_sidecar(sidecar)
            seen.append((at, ours, many, of_prometheus(running, at)))
            time.sleep(EVERY)
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    off: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(list)
    for at, ours, many, theirs in seen:
        minute, before = truth(lines, at - WINDOW, at), truth(lines, at - 2.0 * WINDOW, at)
        for family in FAMILIES:
            counts[family].append(many[family])
            mine, its = before[family][-many[family] :], minute[family]
            for q in QS if min(len(mine), len(its)) >= LEAST else ():
                pairs = ((ours, exact(mine, q)), (theirs, exact(its, q)))
                if all((family, q) in said for said, _ in pairs):
                    mine_off, its_off = (abs(said[family, q] - true) / max(true, 1e-9) for said, true in pairs)
                    off[family, q].append((mine_off, its_off))
    print(f"{len(seen)} windows of {WINDOW:g} s; mean relative error")
    print("| | values | " + " | ".join(f"p{100 * q:g}" for q in QS) + " | all |\n" + "| --- " * (len(QS) + 3) + "|")
    for family in FAMILIES:
        for index, who in enumerate(("sidecar", "Prometheus")):
            cells = [[pair[index] for pair in off[family, q]] for q in QS]
            every = [error for cell in cells for error in cell]
            shown = [f"{100 * fmean(cell):.1f} %" if cell else "" for cell in (*cells, every)]
            print(f"| {family}, {who} | {fmean(counts[family] or [0]):.0f} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
