"""Starts a real Prometheus on a free loopback port, and asks it."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml
from loopback import wait_for
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PATIENCE = 120.0
"""Seconds for one query; the benchmarks ask for a day of a large fleet."""


class Prometheus:
    """A running one: its process, its log and where it answers."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str) -> None:
        self.process, self.url = process, url
        self._log = log

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()

    def ask(self, path: str, **arguments: object) -> Any:
        """Return the data that a path of its API answers; AssertionError with its words where it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - loopback
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}\n{error.read().decode()}") from None

    def query(self, expr: str, **arguments: object) -> list[dict[str, Any]]:
        """Return the series that an expression has now, or at the Unix time `time`."""
        found: list[dict[str, Any]] = self.ask("query", query=expr, **arguments)["result"]
        return found

    def query_range(self, expr: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series that an expression has between two Unix times."""
        found: list[dict[str, Any]] = self.ask("query_range", query=expr, start=begin, end=end, step=step)["result"]
        return found


def job(name: str, *urls: str, **more: object) -> dict[str, object]:
    """Return a scrape configuration of servers, by their base URLs."""
    targets = [url.removeprefix("http://") for url in urls]
    return {"job_name": name, "static_configs": [{"targets": targets}], **more}


def configuration(seconds: int, *jobs: Mapping[str, object], rules: object = None) -> dict[str, object]:
    """Return a configuration that scrapes, and evaluates the rule files of a pattern, each so many seconds."""
    return {
        "global": {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"},
        "rule_files": [] if rules is None else [str(rules)],
        "scrape_configs": list(jobs),
    }


@contextmanager
def prometheus(
    folder: Path, config: Mapping[str, object], *flags: str, program: str = "prometheus"
) -> Iterator[Prometheus]:
    """Run Prometheus with its files in a folder; yield it once it is ready."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    address, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}", *flags]
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            wait_for(f"http://{address}/-/ready", seconds=60.0)
            yield Prometheus(process, log, f"http://{address}")
        finally:
            process.kill()
