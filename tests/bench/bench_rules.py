"""What the whole pack costs in real Prometheus, at 10, 100 and 1,000 engines, and what its long ranges cost.

Each engine is a target of its own with all series that a sidecar exports (one simulated server under load); its
counters stand still, which costs a rule as much as when they move. Prometheus reports for each group how long its last
evaluation took. Ranges of a day hold only minutes here, so what they cost is measured apart, on a day of backfilled
samples of the series that they read.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_vllm import FakeVllm
from loopback import free_port
from prometheus_process import configuration, job, prometheus
from rehearsal import POLL
from running import WALL, config, run
from vllm_sidecar.config.thresholds import Thresholds
from vllm_sidecar.generate import Format, rule_files, slo_files
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.simulate.dialects import exposition
from vllm_sidecar.simulate.lookalike import Lookalike
from vllm_sidecar.simulate.script import read_script

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from prometheus_process import Prometheus

ENGINES = (10, 100, 1000)
SCRAPE = 15
SETTLE = 100.0
"""Seconds for every target to be scraped and every group to be evaluated several times."""
DAY_ENGINES, DAY_STEP = 50, 15
LONG = "1d"


async def one_body() -> bytes:
    """Return what a sidecar exports of one server under load."""
    look = Lookalike(read_script("healthy", None, {}), WALL)
    async with FakeVllm() as fake, run(config(fake.url)) as watched:
        fake.body = lambda: exposition(look)
        for second in range(1, 75):
            look.advance(second * POLL)
            watched.clock[0] += POLL
            await watched.pipeline.poll_once()
        return watched.exporter.render(openmetrics=False)


def serve(body: bytes, port: int) -> None:
    """Serve the body until killed; runs in a process of its own."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def watching(folder: Path, engines: int, port: int) -> AbstractContextManager[Prometheus]:
    """Run Prometheus with the committed thresholds' rules over so many targets."""
    slos, _ = slo_files(Thresholds(), Format.PROMETHEUS)
    for name, content in (rule_files(Thresholds(), Format.PROMETHEUS) | slos).items():
        (folder / name).write_bytes(content)
    relabel = [
        {"source_labels": ["__address__"], "target_label": "instance"},
        {"target_label": "__address__", "replacement": f"127.0.0.1:{port}"},
    ]
    targets = [f"engine-{number}:10190" for number in range(engines)]
    jobs = [job("vllm-sidecar", *targets, relabel_configs=relabel)] if engines else []
    return prometheus(folder, configuration(SCRAPE, *jobs, rules=folder / "*.rules.yml"))


def measured(engines: int, port: int) -> str:
    """Return one row of the table."""
    with tempfile.TemporaryDirectory() as folder, watching(Path(folder), engines, port) as running:
        time.sleep(SETTLE)
        groups = running.ask("rules")["groups"]
        series = int(running.ask("status/tsdb")["headStats"]["numSeries"])
        seconds = {group["name"]: float(group["evaluationTime"]) for group in groups}
        load = sum(float(group["evaluationTime"]) / float(group["interval"]) for group in groups)
        slowest = max(seconds, key=lambda name: seconds[name])
        rules = sum(len(group["rules"]) for group in groups)
        broken = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
        assert not broken, broken
    return (
        f"{engines:7} {series:9} {rules:5} {1000 * sum(seconds.values()):9.0f} ms {100 * load:9.2f} % "
        f"{slowest} {1000 * seconds[slowest]:.0f} ms"
    )


def day(folder: Path) -> int:
    """Backfill a day of what the long ranges read; return how many samples that is."""
    text, now = folder / "day.om", int(time.time()) // DAY_STEP * DAY_STEP
    count = 0
    counters = ("inter_token_latency_seconds_sum", "inter_token_latency_seconds_count")
    with text.open("w") as out:
        for name, labels in (*((each, "") for each in counters), ("recent_cache_hit_ratio", ',cache="local"')):
            kind = "gauge"  # of a block only the values count
            out.write(f"# TYPE vllm_sidecar_{name} {kind}\n")
            for engine in range(DAY_ENGINES):
                who = f'job="vllm-sidecar",instance="engine-{engine}:10190",model_name="m",engine="0"{labels}'
                for step in range(86_400 // DAY_STEP):
                    stamp = now - 86_400 + step * DAY_STEP
                    out.write(f"vllm_sidecar_{name}{{{who}}} {step * 0.5} {stamp}\n")
                    count += 1
        out.write("# EOF\n")
    subprocess.run(["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data")],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    text.unlink()
    return count


def long_ranges() -> None:
    """Print what the alerts that look back a day take, per engine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = day(folder)
        with watching(folder, 0, 1) as running:
            print(f"\na day of {DAY_ENGINES} engines, {count} samples:")
            for group in alert_groups(Thresholds()):
                for rule in group["rules"]:
                    if f"[{LONG}]" in rule["expr"] and "gpu" not in rule["expr"]:
                        times = []
                        for _ in range(5):
                            began = time.perf_counter()
                            running.query(rule["expr"])
                            times.append(time.perf_counter() - began)
                        each = 1000 * sorted(times)[2] / DAY_ENGINES
                        print(f"  {rule['alert']:32} {each:6.2f} ms per engine, each {group['interval']}")


def main() -> None:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        print("skipped: apt-get install prometheus")
        return
    body, port = asyncio.run(one_body()), free_port()
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        server = subprocess.Popen([sys.executable, __file__, "serve", file.name, str(port)])
        try:
            print("engines    series rules  one round       load  slowest group")
            for engines in ENGINES:
                print(measured(engines, port), flush=True)
        finally:
            server.terminate()
            server.wait()
    long_ranges()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
    else:
        main()
