"""What the whole pack costs in real Prometheus, at 10, 100 and 1,000 engines, and what its long ranges cost.

    python tests/bench/bench_rules.py [--before CHECKOUT] [--engines 10,100,1000]

Each engine is a target of its own with all series that a sidecar exports (one simulated server under load); its
counters stand still, which costs a rule as much as when they move. Prometheus reports for each group how long its last
evaluation took; the medians of several rounds are added up. Ranges of a day hold only minutes here, so what they cost
is measured apart, with a day of a synthetic fleet. With a checkout of another commit its pack is measured too, in a
Prometheus of its own, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import day_of_rules
from fake_vllm import FakeVllm
from ports import free_port
from prometheus_process import configuration, job, prometheus
from running import WALL, config, run
from scenario_run import POLL

from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from prometheus_process import Prometheus

ENGINES = "10,100,1000"
SCRAPE = 15
SETTLE = 75.0
"""Seconds for every target to be scraped and every group to be evaluated."""
ROUNDS = 5
HERE = Path(__file__).parents[2]


async def bodies_over_time(count: int) -> list[bytes]:
    """Return what a sidecar exports of one server under load, at so many scrapes in a row."""
    look, found = Lookalike(read_script("healthy", None, {}), WALL), []
    async with FakeVllm() as fake, run(config(fake.url)) as watched:
        fake.body = lambda: exposition(look)
        for poll in range(1, 76 + int(SCRAPE / POLL) * (count - 1)):
            look.advance(poll * POLL)
            watched.clock[0] += POLL
            await watched.target_loop.poll_once()
            if poll >= 75 and not (poll - 75) % int(SCRAPE / POLL):
                found.append(watched.exporter.render(openmetrics=False))
    return found


def serve(body: bytes, port: int) -> None:
    """Serve the body until killed; runs in a process of its own."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def generated(checkout: Path, folder: Path) -> list[Path]:
    """Let a checkout generate its rules with their defaults."""
    folder.mkdir()
    python = os.environ | {"PYTHONPATH": str(checkout / "exporter")}
    command = [sys.executable, "-m", "vllm_sidecar", "generate", "rules", "--out", str(folder)]
    subprocess.run(command, env=python, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    return sorted(folder.glob("*.rules.yml"))


def watching(folder: Path, engines: int, port: int) -> AbstractContextManager[Prometheus]:
    """Run Prometheus with the rules of a folder over so many targets."""
    relabel = [
        {"source_labels": ["__address__"], "target_label": "instance"},
        {"target_label": "__address__", "replacement": f"127.0.0.1:{port}"},
    ]
    targets = [f"engine-{number}:10190" for number in range(engines)]
    jobs = [job("vllm-sidecar", *targets, relabel_configs=relabel)]
    return prometheus(folder, configuration(SCRAPE, *jobs, rules=folder / "rules" / "*.rules.yml"))


@dataclass(frozen=True)
class Cost:
    """What one pack costs."""

    rules: int
    milliseconds: float
    """Of one evaluation of every group."""
    load: float
    """Share of one CPU core's time."""
    slowest: str

    def __str__(self) -> str:
        """Write it as columns of a table."""
        return f"{self.rules:5} {self.milliseconds:9.1f} ms {100 * self.load:8.3f} %  {self.slowest}"


def measured(engines: int, port: int, checkout: Path) -> Cost:
    """Return what the pack of a checkout costs at so many engines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated(checkout, folder / "rules")
        with watching(folder, engines, port) as running:
            time.sleep(SETTLE)
            seen: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                time.sleep(SCRAPE)
                groups = running.ask("rules")["groups"]
                for group in groups:
                    seen.setdefault(group["name"], []).append(float(group["evaluationTime"]))
    broken = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]
    assert not broken, broken
    seconds = {group: median(times) for group, times in seen.items()}
    load = sum(seconds[group["name"]] / float(group["interval"]) for group in groups)
    slowest = max(seconds, key=lambda group: seconds[group])
    rules = sum(len(group["rules"]) for group in groups)
    return Cost(rules, 1000 * sum(seconds.values()), load, f"{slowest} {1000 * seconds[slowest]:.1f} ms")


def compare(engines: int, port: int, checkouts: dict[str, Path]) -> None:
    """Print a row for each pack, and how many times more the first costs."""
    found = {name: measured(engines, port, checkout) for name, checkout in checkouts.items()}
    for name, cost in found.items():
        print(f"{engines:7} {name:7} {cost}", flush=True)
    if len(found) == 2:
        now, before = found.values()
        print(
            f"{'':7} ratio   {now.milliseconds / before.milliseconds:15.2f}  {now.load / before.load:12.2f}", flush=True
        )


def long_ranges(checkouts: dict[str, Path]) -> None:
    """Print what each pack costs per engine once there is a day of samples, and its dearest rules."""
    series, totals = day_of_rules.fleet(), []
    print(f"\na day of {day_of_rules.ENGINES} engines, milliseconds per engine and round of {SCRAPE} s:")
    for name, checkout in checkouts.items():
        with tempfile.TemporaryDirectory() as folder:
            found = day_of_rules.cost(Path(folder), generated(checkout, Path(folder) / "rules"), series)
        totals.append(sum(found.values()))
        print(f"  {name:7} {totals[-1]:6.3f} in all")
        for rule in sorted(found, key=lambda rule: -found[rule])[:5]:
            print(f"    {rule:45} {found[rule]:6.3f}", flush=True)
    if len(totals) == 2:
        print(f"  ratio   {totals[0] / totals[1]:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the generated rules cost in real Prometheus.")
    parser.add_argument("--before", type=Path, help="checkout of another commit whose rules are measured too")
    parser.add_argument("--engines", default=ENGINES, help="how many, separated by commas")
    options = parser.parse_args()
    if shutil.which("prometheus") is None:
        print("skipped: apt-get install prometheus")
        return
    checkouts = {"now": HERE, **({"before": options.before.resolve()} if options.before else {})}
    (body,), port = asyncio.run(bodies_over_time(1)), free_port()
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        server = subprocess.Popen([sys.executable, __file__, "serve", file.name, str(port)])
        try:
            print("engines pack    rules  one round       load  slowest group")
            for engines in options.engines.split(","):
                compare(int(engines), port, checkouts)
        finally:
            server.terminate()
            server.wait()
    long_ranges(checkouts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
    else:
        main()
