"""What a board costs real Prometheus: every query of the Overview over six hours, at 10, 100 and 1,000 engines.

The six hours are backfilled, one sample a minute of every series that the board reads (real ones have four times as
many, which a query that steps over them does not read). Each query is asked as Grafana does: a range in steps that fit
a panel, a table for its last moment alone.

    python tests/bench/bench_dashboards.py [BOARD]
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import dashboards_on_disk
from prometheus_process import prometheus

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.types import PREFIX, Kind
from vllm_sidecar.generate.settings.thresholds import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_process import Prometheus

ENGINES = (10, 100, 1000)
PER_MODEL = 20
HOURS, SAMPLE, STEP = 6, 60, 30
BEGIN = 1_700_000_000
END = BEGIN + HOURS * 3600
REPEATS = 3
VALUES = {
    "source": ["vllm"],
    "quantile": ["0.5", "0.95", "0.99"],
    "reason": ["capacity", "deferred"],
    "finished_reason": ["stop", "length", "abort"],
    "cache": ["local"],
    "slo": ["time_to_first_token", "inter_token_latency", "availability"],
}
"""Values of labels that a metric has beside those of its engine."""
EDGES = [*(f"{2.0**power:g}" for power in range(-10, 10)), "+Inf"]


def names(exprs: Iterable[str]) -> list[str]:
    """Return the metrics that expressions read."""
    return sorted({name for expr in exprs for name in re.findall(r"\b(vllm_sidecar[\w:]+|ALERTS|up)\{", expr)})


def series(name: str, engines: int) -> Iterator[str]:
    """Yield the labels of each series of a metric."""
    if name == "ALERTS":
        yield 'alertname="VllmWatchdog",alertstate="firing",severity="watchdog"'
        return
    record = ":" in name
    stem = name.removeprefix(PREFIX)
    labels = () if record or name == "up" else labels_of(stem)
    extra = ["slo"] if record else [label for label in labels if label not in ("model_name", "engine")]
    signal = signal_of(name)
    if signal is not None and signal.kind is Kind.SUMMARY:
        extra.append("quantile")
    pairs = [[f'{label}="{value}"' for value in VALUES.get(label, ["x"])] for label in extra]
    if stem.endswith("_bucket"):
        pairs.append([f'le="{edge}"' for edge in EDGES])
    for number in range(0, engines, PER_MODEL if record else 1):
        own = [f'cluster="c",namespace="n",job="vllm-sidecar",model_name="model-{number // PER_MODEL}"']
        own[0] = own[0] if record or "model_name" in labels else own[0].rpartition(",")[0]
        own += [] if record else [f'instance="engine-{number}:10190"']
        own += ['engine="0"'] if "engine" in labels else []
        combined = [""]
        for each in pairs:
            combined = [f"{one},{pair}" for one in combined for pair in each]
        yield from (",".join(own) + one for one in combined)


def backfill(folder: Path, metrics: list[str], engines: int) -> int:
    """Write six hours of every metric into a Prometheus' data folder; return the number of series."""
    text, count = folder / "text", 0
    with text.open("w") as stream:
        for name in metrics:
            grows = name.endswith(("_total", "_bucket", "_count", "_sum"))
            total = name.endswith("_total")
            stream.write(f"# TYPE {name.removesuffix('_total')} {'counter' if total else 'unknown'}\n")
            for index, labels in enumerate(series(name, engines)):
                count += 1
                for at in range(BEGIN, END + 1, SAMPLE):
                    value = (at - BEGIN) * (1 + index % 7) if grows else round(1 + math.sin(at / 900 + index), 3)
                    stream.write(f"{name}{{{labels}}} {value} {at}\n")
        stream.write("# EOF\n")
    command = [
        "promtool",
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "--max-block-duration=6h",
        str(text),
        str(folder / "data"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    text.unlink()
    return count


def timed(running: Prometheus, asked: dashboards_on_disk.Asked, instant: bool) -> float:
    """Return the median seconds of one query."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        if instant:
            running.query(asked.expr, time=END)
        else:
            running.query_range(asked.expr, BEGIN, END, STEP)
        took.append(time.perf_counter() - began)
    return sorted(took)[REPEATS // 2]


def measured(dashboard: str, engines: int) -> tuple[int, list[tuple[float, str]]]:
    """Return the number of series, and the seconds of each panel's queries together, the slowest first."""
    chosen = {
        **dashboards_on_disk.ANYTHING,
        "instance": "|".join(f"engine-{number}:10190" for number in range(engines)),
    }
    asked = [
        each
        for each in dashboards_on_disk.asked(chosen, interval="4m", time_range=f"{HOURS}h")
        if each.dashboard == dashboard
    ]
    panels = {panel["title"]: panel for panel in dashboards_on_disk.panels(dashboards_on_disk.DOCUMENTS[dashboard])}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = backfill(folder, names(each.expr for each in asked), engines)
        with prometheus(folder, {}, "--storage.tsdb.retention.time=100y") as running:
            took: dict[str, float] = {}
            for each in asked:
                instant = panels[each.panel]["targets"][0]["instant"]
                took[each.panel] = took.get(each.panel, 0.0) + timed(running, each, instant)
    return count, sorted(((seconds, title) for title, seconds in took.items()), reverse=True)


def main() -> None:
    """Print the cost of a board, and of its slowest panels."""
    dashboard = sys.argv[1] if len(sys.argv) > 1 else "vllm-overview"
    print(f"{dashboard}, {HOURS} h in steps of {STEP} s; medians of {REPEATS}")
    print("| engines | series | all panels | slowest panel |\n| --- | --- | --- | --- |")
    for engines in ENGINES:
        count, took = measured(dashboard, engines)
        slowest = "; ".join(f"{title} {1000 * seconds:.0f} ms" for seconds, title in took[:3])
        print(f"| {engines} | {count} | {sum(seconds for seconds, _ in took):.2f} s | {slowest} |", flush=True)


if __name__ == "__main__":
    main()
