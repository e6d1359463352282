"""What each version of the programs that read the generated rules makes of one recording."""

from __future__ import annotations

import datetime as dt
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml
from loopback import wait_for
from ports import free_port
from prometheus_process import Prometheus, configuration, prometheus

from fleets.clock import EPOCH, MONDAY, Grid, at
from fleets.evaluate import Evaluation, levels, rules_of
from fleets.faults import Fault, Kind
from fleets.remote_write import FLAGS, ended, labels_of, push
from fleets.week import scraped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fleets.evaluate import Fired
    from fleets.export import Series

STEP, NEVER = 15.0, "1000d"
GRID = Grid(at(MONDAY, "09:00"), at(MONDAY, "10:30"), STEP)
FAULTS = (
    Fault(Kind.DOWN, "chat", at(MONDAY, "09:20"), at(MONDAY, "09:30"), replicas=6),
    Fault(Kind.ERRORS, "chat", at(MONDAY, "09:45"), at(MONDAY, "09:55"), size=0.3),
    Fault(Kind.STALL, "large", at(MONDAY, "09:40"), at(MONDAY, "09:50")),
    Fault(Kind.NAN, "night", at(MONDAY, "09:45"), at(MONDAY, "09:50"), replicas=1),
)
RECORDS = '{__name__=~"vllm_sidecar:.+"}'
PATIENCE = 300.0
Recorded = dict[tuple[tuple[str, str], ...], dict[float, float]]
"""Labels of each recorded series -> its value at each evaluation."""


def recording() -> Series:
    """Return an hour and a half of three models, with four faults."""
    return scraped(GRID, FAULTS)


def evaluated(program: str, folder: Path, files: Sequence[Path], series: Series) -> tuple[Recorded, list[Fired]]:
    """Return what a version of Prometheus records and fires."""
    (folder / "rules").mkdir()
    for file in files:
        (folder / "rules" / file.name).write_text(unevaluated(file.read_text()))
    config = configuration(15, rules=folder / "rules" / "*.yml")
    with prometheus(folder, config, *FLAGS, program=program) as running:
        groups = running.ask("rules")["groups"]
        assert sum(len(group["rules"]) for group in groups) == len(rules_of(files))
        fired = Evaluation(running, rules_of(files)).run(series)
        return records(running), fired


def unevaluated(rules: str) -> str:
    """Make rules load and not run: what they record of today is newer than the recording, which is then refused."""
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        group["interval"] = NEVER
    return yaml.safe_dump(document)


def records(running: Prometheus) -> Recorded:
    """Return all recorded series at each evaluation of the recording."""
    found = running.query_range(RECORDS, EPOCH + GRID.begin, EPOCH + GRID.end - STEP, STEP)
    return {
        tuple(sorted(one["metric"].items())): {float(stamp) - EPOCH: float(value) for stamp, value in one["values"]}
        for one in found
    }


@contextmanager
def victoria_metrics(folder: Path, program: Path, *flags: str) -> Iterator[Prometheus]:
    """Run VictoriaMetrics, which answers as Prometheus does."""
    address, log = f"127.0.0.1:{free_port()}", folder / "victoria-metrics.log"
    command = [str(program), f"-storageDataPath={folder}/vm", f"-httpListenAddr={address}",
               "-retentionPeriod=100y", "-search.disableCache", "-search.latencyOffset=0s",
               "-search.maxStalenessInterval=5m", *flags]  # fmt: skip
    with log.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as process:
        try:
            wait_for(f"http://{address}/health", seconds=60.0)
            yield Prometheus(process, log, f"http://{address}")
        finally:
            process.kill()


def by_level(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write rules so that no file reads what it or a later one records, alerts last: replaying does not wait."""
    rules = rules_of(files)
    parts = [*levels(rules), [rule for rule in rules if "alert" in rule.given]]
    found = []
    for number, part in enumerate(parts):
        groups = [{"name": f"{number}-{index}", "interval": f"{rule.interval:g}s", "rules": [dict(rule.given)]}
                  for index, rule in enumerate(part)]  # fmt: skip
        found.append(folder / f"level-{number}.yml")
        found[-1].write_text(yaml.safe_dump({"groups": groups}))
    return found


def replayed(
    programs: Callable[[str], Path], folder: Path, files: Sequence[Path], series: Series
) -> tuple[Recorded, set[str]]:
    """Return what vmalert records when it replays the rules over the recording, and the alerts that fire."""
    vmalert, begin, end = programs("vmalert"), EPOCH + GRID.begin, EPOCH + GRID.end - STEP
    subprocess.run([vmalert, "-dryRun", *(f"-rule={file}" for file in files)], check=True, capture_output=True)
    with victoria_metrics(folder, programs("victoria-metrics")) as running:
        times = series.grid.times + EPOCH
        push(running.url, ((labels_of(text), *ended(times, series.values(text))) for text in series))
        for file in by_level(files, folder):
            wait_for(f"{running.url}/internal/force_flush")  # what was written is found
            _replay(vmalert, running.url, file)
        wait_for(f"{running.url}/internal/force_flush")
        fired = running.query_range('ALERTS{alertstate="firing"}', begin, end, STEP)
        return records(running), {one["metric"]["alertname"] for one in fired}


def _replay(vmalert: Path, url: str, file: Path) -> None:
    begin, end = (dt.datetime.fromtimestamp(EPOCH + each, dt.UTC) for each in (GRID.begin, GRID.end - STEP))
    command = [str(vmalert), f"-rule={file}", f"-datasource.url={url}", f"-remoteWrite.url={url}",
               "-replay.rulesDelay=0",
               f"-replay.timeFrom={begin:%Y-%m-%dT%H:%M:%SZ}", f"-replay.timeTo={end:%Y-%m-%dT%H:%M:%SZ}",
               f"-httpListenAddr=127.0.0.1:{free_port()}", "-replay.disableProgressBar"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
