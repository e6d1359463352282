"""A fleet in real Prometheus 3 and in VictoriaMetrics: scraping, all rules and the overview, at 10 to 1,000 engines.

    python tests/bench/bench_fleet.py [ENGINES...] [--system prometheus|victoria-metrics|agent] [--seconds S]

One process plays the /metrics of all sidecars on the addresses 127.0.x.y: what a real sidecar exported for a simulated
server under load, a body for each 15 s of ten minutes, so that values change as they do in operation. Twenty engines
share a model. `agent` is a Prometheus agent that writes to VictoriaMetrics. There is no history of days: what the
ranges of a day cost is measured by bench_rules.py, and the overview over six hours by bench_dashboards.py.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import dashboards_on_disk
import newer
import psutil
import yaml
from bench_rules import HERE, SCRAPE, bodies_over_time, generated
from loopback import wait_for
from ports import free_port
from prometheus_process import Prometheus, configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLE = 75.0
"""Seconds for every target to be scraped, and for ranges of a minute to be full."""
PER_MODEL = 20
MODEL = b'model_name="meta-llama/Llama-3.1-8B-Instruct"'
SYSTEMS = ("prometheus", "victoria-metrics", "agent")


class Sidecars(asyncio.Protocol):
    """A connection to one of the sidecars; all answers are made before the measurement."""

    answers: dict[int, list[bytes]] = {}  # noqa: RUF012 - filled once
    """Model -> its answers in the order of time."""
    began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        *_, third, fourth = transport.get_extra_info("sockname")[0].split(".")
        self._model = number_of(int(third), int(fourth)) // PER_MODEL

    def data_received(self, _data: bytes) -> None:
        answers = self.answers[self._model]
        at = int((time.monotonic() - self.began) // SCRAPE)
        self._transport.write(answers[min(at, len(answers) - 1)])  # type: ignore[attr-defined]


def number_of(third: int, fourth: int) -> int:
    return (third - 1) * 250 + fourth - 1


def address(number: int, port: int) -> str:
    return f"127.0.{1 + number // 250}.{1 + number % 250}:{port}"


async def serve(bodies: list[bytes], engines: int, port: int) -> None:
    """Play the sidecars until killed."""
    for model in range((engines - 1) // PER_MODEL + 1):
        named = (body.replace(MODEL, b'model_name="model-%d"' % model) for body in bodies)
        Sidecars.answers[model] = [answer(gzip.compress(body, 1)) for body in named]
    Sidecars.began = time.monotonic()
    await asyncio.get_running_loop().create_server(Sidecars, "0.0.0.0", port, backlog=2000)
    print("ready", flush=True)
    await asyncio.Event().wait()


def answer(body: bytes) -> bytes:
    kind = "Content-Type: text/plain; version=0.0.4\r\nContent-Encoding: gzip"
    return f"HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def scrape_job(engines: int, port: int) -> dict[str, object]:
    models = [range(engines)[first : first + PER_MODEL] for first in range(0, engines, PER_MODEL)]
    groups = [
        {"targets": [address(number, port) for number in numbers], "labels": {"cluster": "c", "namespace": f"n{index}"}}
        for index, numbers in enumerate(models)
    ]
    return {"job_name": "vllm-sidecar", "static_configs": groups}


class System:
    """The programs of one layout."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.processes: dict[str, psutil.Process] = {}
        self.store: Prometheus
        self.rules_url = ""

    def _start(self, name: str, program: str, *flags: str) -> str:
        """Start a program that listens on the last of its flags' addresses; return its URL."""
        url, log = f"127.0.0.1:{free_port()}", self._folder / f"{name}.log"
        stream = self._stack.enter_context(log.open("wb"))
        command = [str(newer.program(program)), *(flag.replace("ADDRESS", url) for flag in flags)]
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.processes[name] = psutil.Process(process.pid)
        wait_for(f"http://{url}/-/ready" if program == "prometheus" else f"http://{url}/health", seconds=60.0)
        if name != "vmalert" and "--agent" not in flags:
            self.store = Prometheus(process, log, f"http://{url}")
        return f"http://{url}"

    def prometheus(self, engines: int, port: int) -> None:
        """One Prometheus that scrapes and evaluates."""
        config = configuration(SCRAPE, scrape_job(engines, port), rules=self._folder / "rules" / "*.rules.yml")
        self._prometheus("prometheus", config, f"--storage.tsdb.path={self._folder}/data")

    def _prometheus(self, name: str, config: dict[str, object], *flags: str) -> str:
        file = self._folder / f"{name}.yml"
        file.write_text(yaml.safe_dump(config))
        return self._start(name, "prometheus", f"--config.file={file}", "--web.listen-address=ADDRESS", *flags)

    def victoria_metrics(self, engines: int, port: int, *, scrapes: bool = True) -> None:
        """VictoriaMetrics, which scrapes unless an agent does, and vmalert with the rules."""
        file = self._folder / "scrape.yml"
        whole = configuration(SCRAPE, *([scrape_job(engines, port)] if scrapes else []))
        file.write_text(
            yaml.safe_dump({"scrape_configs": whole["scrape_configs"], "global": {"scrape_interval": "15s"}})
        )
        flags = (f"-promscrape.config={file}", "-httpListenAddr=ADDRESS", f"-storageDataPath={self._folder}/vm")
        store = self._start("victoria-metrics", "victoria-metrics", *flags)
        urls = (f"-datasource.url={store}", f"-remoteWrite.url={store}", f"-remoteRead.url={store}")
        rules = (f"-rule={self._folder}/rules/*.rules.yml", "-notifier.blackhole", "-httpListenAddr=ADDRESS")
        self.rules_url = self._start("vmalert", "vmalert", *urls, *rules)

    def agent(self, engines: int, port: int) -> None:
        """An agent that scrapes and writes to VictoriaMetrics."""
        self.victoria_metrics(engines, port, scrapes=False)
        config = {
            key: each for key, each in configuration(SCRAPE, scrape_job(engines, port)).items() if "rule" not in key
        }
        config["global"] = {"scrape_interval": f"{SCRAPE}s"}
        config["remote_write"] = [{"url": f"{self.store.url}/api/v1/write"}]
        self._prometheus("agent", config, "--agent", f"--storage.agent.path={self._folder}/agent")

    def cpu(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}

    def rule_seconds(self) -> tuple[float, str]:
        """Return the seconds of one evaluation of every group, and the slowest group."""
        if not self.rules_url:
            found = {group["name"]: float(group["evaluationTime"]) for group in self.store.ask("rules")["groups"]}
        else:
            found = mean_durations(self.rules_url)
        slowest = max(found, key=lambda name: found[name])
        return sum(found.values()), f"{slowest} {found[slowest]:.2f} s"


def mean_durations(url: str) -> dict[str, float]:
    """Return the mean seconds of an evaluation of each group of vmalert."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as found:  # noqa: S310 - loopback
        lines = found.read().decode().splitlines()
    values: dict[tuple[str, str], float] = {}
    for line in lines:
        for kind in ("sum", "count"):
            if line.startswith(f"vmalert_iteration_duration_seconds_{kind}{{"):
                name, _, value = line.rpartition(" ")
                values[name.partition('group="')[2].partition('"')[0], kind] = float(value)
    return {group: total / max(1.0, values[group, "count"]) for (group, kind), total in values.items() if kind == "sum"}


def overview(store: Prometheus) -> tuple[float, str]:
    """Return the seconds of all queries of the overview for the last ten minutes, and the slowest of its panels."""
    now, took = time.time(), {}
    for asked in dashboards_on_disk.asked(dashboards_on_disk.ANYTHING, time_range="10m"):
        if asked.dashboard == "vllm-overview":
            began = time.perf_counter()
            store.query_range(asked.expr, now - 600, now, SCRAPE)
            took[asked.panel] = took.get(asked.panel, 0.0) + time.perf_counter() - began
    slowest = max(took, key=lambda panel: took[panel])
    return sum(took.values()), f"{slowest} {took[slowest]:.2f} s"


def one(store: Prometheus, expr: str) -> float:
    found = store.query(expr)
    return float(found[0]["value"][1]) if found else 0.0


@contextmanager
def playing(bodies: Path, engines: int) -> Iterator[int]:
    """Play the sidecars in a process of their own; yield their port."""
    port = free_port()
    command = [sys.executable, __file__, "--serve", str(bodies), str(engines), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield port
        finally:
            process.kill()


def measure(bodies: Path, system: str, engines: int, seconds: float) -> None:
    """Print what one layout costs at so many engines."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        generated(HERE, folder / "rules")
        port = stack.enter_context(playing(bodies, engines))
        layout = System(folder, stack)
        getattr(layout, system.replace("-", "_"))(engines, port)
        time.sleep(SETTLE)
        before, began = layout.cpu(), time.monotonic()
        time.sleep(seconds)
        passed, after = time.monotonic() - began, layout.cpu()
        print(f"{system}, {engines} engines (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
        for program, process in layout.processes.items():
            used, memory = (after[program] - before[program]) / passed, process.memory_info().rss / 2**20
            print(f"  {program:17} {used:.3f} s of CPU a second, {memory:.0f} MiB")
        up, scraped = (one(layout.store, f'{what}(up{{job="vllm-sidecar"}})') for what in ("sum", "count"))
        samples = one(layout.store, 'sum(scrape_samples_scraped{job="vllm-sidecar"})')
        records = one(layout.store, 'count({__name__=~"vllm_sidecar:.+",instance=""})')
        print(f"  {up:.0f} of {scraped:.0f} up, {samples:.0f} series, {samples / SCRAPE:.0f} samples/s, and "
              f"{records:.0f} records of models")  # fmt: skip
        for what, (took, slowest) in (("rules", layout.rule_seconds()), ("overview", overview(layout.store))):
            print(f"  {what:17} {took:.2f} s for all, slowest: {slowest}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engines", nargs="*", type=int, default=[10, 100, 1000])
    parser.add_argument("--system", choices=SYSTEMS, action="append")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        bodies = [file.read_bytes() for file in sorted(Path(options.serve[0]).glob("*.body"))]
        asyncio.run(serve(bodies, int(options.serve[1]), int(options.serve[2])))
        return
    try:
        newer.unpacked()
    except newer.MissingError as missing:
        print(f"skipped: {newer.hint('programs', str(missing))}")
        return
    with tempfile.TemporaryDirectory() as name:
        for number, body in enumerate(asyncio.run(bodies_over_time(40))):
            (Path(name) / f"{number:03}.body").write_bytes(body)
        for engines in options.engines:
            for system in options.system or SYSTEMS:
                measure(Path(name), system, engines, options.seconds)


if __name__ == "__main__":
    main()
