"""Replays: the same series as live, and the alerts that Prometheus would have fired."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import promtool
import pytest
import recorded
from fake_vllm import FakeVllm
from running import WALL, config
from samples import others_slow

from field.play import play
from field.test_cases import CASES
from vllm_sidecar.cli import main
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.target import TargetLoop
from vllm_sidecar.simulator.body import exposition
from vllm_sidecar.simulator.lookalike import Lookalike
from vllm_sidecar.simulator.script import read_script
from vllm_sidecar.tools.recording.client import RecordingClient
from vllm_sidecar.tools.recording.events import Exchange, Flags
from vllm_sidecar.tools.recording.hashing import Hasher
from vllm_sidecar.tools.recording.playback import Playback, outline
from vllm_sidecar.tools.recording.reader import Reader
from vllm_sidecar.tools.recording.writer import Writer
from vllm_sidecar.tools.replay.alert_times import Evaluation, Fired
from vllm_sidecar.tools.replay.rules import Rules, rules_of
from vllm_sidecar.tools.replay.scrapes import Scrapes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.io, pytest.mark.slow]  # promtool and whole programs, for seconds each

INCIDENT = "healthy 60s -> queue-buildup 300s -> healthy"
NOT_OF_VLLM = re.compile(
    r"process_|vllm_sidecar_(build_info|config_last|internal_errors|poll_duration|last_success_age)"
)


async def nothing() -> None:
    """Wait for nothing."""


def exported(exporter: Exporter) -> dict[str, float]:
    """Return what a scrape shows of the server: no times of this machine."""
    lines = exporter.render(openmetrics=False).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#") and not NOT_OF_VLLM.match(line))
    return {name: float(value) for name, value in pairs if "poll_server_time" not in name and "interval" not in name}


async def live(path: Path, seconds: int, hasher: Hasher | None = None) -> dict[str, float]:
    """Record a simulated server over HTTP while the sidecar watches it; return what a scrape shows at the end."""
    look = Lookalike(read_script(INCIDENT, None, {}), WALL)
    now = [0.0]
    async with FakeVllm() as fake:
        fake.body = lambda: exposition(look)
        fake.endpoints["/server_info"] = (200, {"vllm_config": {"scheduler_config": {"max_num_seqs": 32}}})
        settings = config(fake.url)
        exporter = Exporter(settings.windows.length)
        with Writer(path) as writer:
            writer.head(recorded.head())
            client = RecordingClient(
                settings.vllm, settings.scrape, 0, writer.write, lambda: now[0], hasher
            )  # fmt: skip
            target_loop = TargetLoop(
                settings.vllm, settings, exporter.changed, client=client,
                clock=lambda: 1000.0 + now[0], wall=lambda: WALL + now[0],
            )  # fmt: skip
            exporter.set_sources([target_loop], settings.windows.length)
            async with target_loop:
                for second in range(1, seconds + 1):
                    now[0] = float(second)
                    look.advance(float(second))
                    await target_loop.poll_once()
                    await target_loop.probe_once()
    return exported(exporter)


async def replayed(path: Path) -> dict[str, float]:
    playback = Playback(path, outline(path))
    await playback.run(15.0, nothing)
    return exported(playback.exporter)


async def test_a_replay_shows_what_the_sidecar_showed(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    expected = await live(path, 200)
    found = await replayed(path)
    assert found.keys() == expected.keys()
    # The recording holds response times to a tenth of a millisecond.
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-3, nan_ok=True)
    assert any("config_max_num_seqs" in name for name in found)


async def test_hashed_names_change_nothing_but_the_names(tmp_path: Path) -> None:
    plain, path, hasher = tmp_path / "plain.gz", tmp_path / "hashed.gz", Hasher()
    expected = await live(plain, 100)
    await live(path, 100, hasher)
    found = await replayed(path)
    assert "Llama" not in "\n".join(recorded.lines(path))
    of_server = [
        sorted(v for n, v in each.items() if "_poll_" not in n and "_probe_" not in n) for each in (found, expected)
    ]
    assert of_server[0] == pytest.approx(of_server[1], rel=1e-6, abs=1e-3)


def test_flags_from_the_command_line_are_replayed(tmp_path: Path) -> None:
    flags = Flags(0, 5.0, ("--max-num-seqs=77",))
    path = recorded.write(tmp_path / "r.gz", [*recorded.polls("healthy", 20), flags])
    found = asyncio.run(replayed(path))
    assert found["vllm_sidecar_config_max_num_seqs"] == 77.0


def test_several_servers_are_targets_of_one_sidecar(tmp_path: Path) -> None:
    pairs = zip(recorded.polls("healthy", 30), recorded.polls("stall", 30, 1), strict=True)
    path = recorded.write(tmp_path / "r.gz", (each for pair in pairs for each in pair), "a", "b")
    found = asyncio.run(replayed(path))
    assert sum('target="a"' in name for name in found) > 50
    assert sum('target="b"' in name for name in found) > 50


def replay(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    promtool.program()
    code = main(["replay", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded.write(tmp_path_factory.mktemp("incident") / "r.gz", recorded.polls(INCIDENT, 450))


def test_the_timeline_names_states_pages_and_their_times(incident: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = replay(capsys, str(incident))
    assert (code, err) == (4, "")
    assert "00:07:30 from 2027-01-15 08:00:00 UTC" in out
    assert re.search(r"^00:0[1-5]:\d\d  state    queueing: \d+ waiting", out, re.MULTILINE)
    assert re.search(r"^00:0\d:\d\d  page     VllmQueueWaitHigh .* \(true since 00:0", out, re.MULTILINE)
    assert "It would have paged: " in out
    assert "Not fully evaluated, because they look back further than the recording: " in out


def test_the_timeline_as_json_is_complete(incident: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = replay(capsys, str(incident), "--format", "json")
    report = json.loads(out)
    assert (code, report["polls"], report["failed_polls"], report["cut_off"]) == (4, 450, 0, None)
    page = next(each for each in report["alerts"] if each["alert"] == "VllmQueueWaitHigh" and each["firing"])
    assert page["severity"] == "page"
    assert 60.0 < page["pending"] < page["firing"] < 360.0
    assert page["end"] is None or page["end"] > 360.0
    assert "wait more than 10s" in page["summary"]


def test_thresholds_of_tomorrow_decide(incident: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tomorrow.yaml"
    file.write_text(
        "selector: 'namespace=\"llm\"'\nsidecar_job: other\nslos: {enabled: false}\nseverities: {page: critical}\n"
        "alerts: {VllmQueueWaitHigh: {wait: 1h}, VllmQueueBacklog: {for: 30s, severity: page}}\n"
    )
    code, out, _ = replay(capsys, str(incident), "--thresholds", str(file), "--format", "json")
    fired = {each["alert"]: each["severity"] for each in json.loads(out)["alerts"] if each["firing"]}
    assert "VllmQueueWaitHigh" not in fired
    assert fired["VllmQueueBacklog"] == "page"
    assert code == 4


def test_hours_of_batches_are_those_of_the_recording(
    incident: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "batch.yaml"
    for hours, quiet in (("07:50-08:30", True), ("09:00-10:00", False)):
        file.write_text(f"batch_hours: ['{hours}']\nslos: {{enabled: false}}\n")
        code, out, _ = replay(capsys, str(incident), "--thresholds", str(file), "--format", "json")
        fired = {each["alert"]: each["firing"] for each in json.loads(out)["alerts"] if each["firing"]}
        assert ("VllmQueueWaitHigh" not in fired) == quiet, hours
        assert (code == 4) != quiet
        assert all(60.0 < at < 450.0 for at in fired.values())


def test_a_calm_recording_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("healthy", 120))
    code, out, _ = replay(capsys, str(path))
    assert code == 0
    assert "It would not have paged." in out


def test_a_server_that_is_down_makes_a_ticket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = next(each for each in recorded.polls("crash-loop 60s", 60) if each.reason)
    gone = [Exchange(0, float(at), 0.001, "", None, refused.reason, "nothing") for at in range(61, 400)]
    path = recorded.write(tmp_path / "r.gz", [*recorded.polls("healthy", 60), *gone])
    code, out, _ = replay(capsys, str(path))
    assert "VllmTargetDown" in out
    assert "down: refused" in out
    assert code in (3, 4)


FIELD = ("stages, the talker hangs", "a router", "a full batch")


@pytest.mark.parametrize("name", others_slow(FIELD, "a full batch"))
async def test_a_field_case_fires_what_its_own_test_expects(name: str) -> None:
    promtool.program()
    seen = await play(CASES[name])
    rules = rules_of(None)
    scrapes = Scrapes(rules.text, 0.0, 15.0)
    for index in range(seen.scrapes.scrapes):
        rows = {key: values[index] for key, values in seen.scrapes.series.items() if values[index] is not None}
        scrapes.add("".join(f"vllm_sidecar_{key} {value!r}\n" for key, value in rows.items()).encode())
    pages = {
        (each.alert, each.labels.get("model_name", ""), each.labels.get("engine", ""))
        for each in Evaluation(rules, scrapes).alerts()
        if each.firing is not None and each.severity == "page" and each.labels.get("long_window", "1h") == "1h"
    }
    assert pages == CASES[name].pages


def test_spells_end_and_begin_again() -> None:
    promtool.program()
    rule = {"alert": "A", "expr": "vllm_sidecar_x > 1", "for": "15s", "labels": {"severity": "page"},
            "annotations": {"summary": 'at "{{ $value }}"'}}  # fmt: skip
    rules = Rules([{"name": "g", "rules": [rule]}], 15.0, 15.0, {})
    scrapes = Scrapes("vllm_sidecar_x", 0.0, 15.0)
    for value in (1, 2, 2, 1, 2, 1, 2, 2, 2):
        scrapes.add(f'vllm_sidecar_x{{model_name="a \\"b\\" {{c}}"}} {value}\n'.encode())
    fired = Evaluation(rules, scrapes).alerts()
    times = [(each.pending, each.firing, each.end) for each in fired]
    assert times == [(30.0, 45.0, 60.0), (75.0, None, 90.0), (105.0, 120.0, None)]
    assert fired[0].labels["model_name"] == 'a "b" {c}'
    assert fired[0].summary == 'at "2"'
    assert isinstance(fired[1], Fired)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(10, "10 s are too short for rules: Prometheus scrapes each 15 s"), (0, "0 s are too")]
)
def test_a_short_recording_is_refused(
    seconds: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls("healthy", seconds))
    code, out, err = replay(capsys, str(path))
    assert (code, out) == (1, "")
    assert expected in err


def test_what_cannot_be_replayed_is_named(
    incident: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "metrics.prom"
    text.write_text("a 1\n")
    assert "is not a recording" in replay(capsys, str(text))[2]
    assert "No such file" in replay(capsys, str(tmp_path / "none"))[2]
    bad = tmp_path / "bad.yaml"
    bad.write_text("alerts: {VllmNothing: {}}\n")
    code, _, err = replay(capsys, str(incident), "--thresholds", str(bad))
    assert code == 1
    assert "VllmNothing" in err
    monkeypatch.setenv("VLLM_SIDECAR_PROMTOOL", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = replay(capsys, str(incident))
    assert code == 1
    assert "promtool is not on PATH: apt-get install prometheus" in err


def test_a_recording_that_was_cut_off_says_so(
    incident: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.gz"
    half.write_bytes(incident.read_bytes()[: incident.stat().st_size // 2])
    code, out, _ = replay(capsys, str(half))
    assert code in (0, 3, 4)
    assert "The recording is not complete: the file ends early" in out


def test_every_event_is_read_again(incident: Path) -> None:
    assert len(list(Reader(incident))) == 450


def test_a_signal_ends_the_playing_and_the_rules_are_evaluated_over_what_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded.write(tmp_path / "r.gz", recorded.polls(INCIDENT, 300))
    add = Scrapes.add

    def interrupted(scrapes: Scrapes, body: bytes) -> None:
        add(scrapes, body)
        if scrapes.count == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Scrapes, "add", interrupted)
    assert main(["replay", str(path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"Interrupted: only 00:02:\d\d were played", out)
    assert "It would not have paged until then." in out
    assert "queueing: " in out
