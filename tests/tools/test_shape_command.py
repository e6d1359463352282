"""The command `shape`: every source, every form, the files of every tool, and mistakes in one line."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from math import ceil
from pathlib import Path

import planned
import pytest
import recorded
import yaml
from places import CAPTURES, EXPORTER, ROOT
from prometheus_process import configuration, job, prometheus
from sidecar_process import sidecar
from simulator_process import simulator

from vllm_sidecar.cli import main
from vllm_sidecar.tools.shape.command import NAMES
from vllm_sidecar.tools.shape.exports import TOOLS
from vllm_sidecar.tools.shape.profile import Profile, schema

pytestmark = pytest.mark.io
SCHEMA = ROOT / "docs" / "shape.schema.json"


def shape(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["shape", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planned.record(tmp_path_factory.mktemp("shape") / "known.gz", planned.known(100), 120)


@pytest.fixture
def folder(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    code, _, err = shape(capsys, recording, "-o", tmp_path / "load", "--prefixes", "3", "--url", "http://h:1/")
    assert code == 0, err
    return tmp_path / "load"


def test_the_report_has_the_unknown_and_the_assumed(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shape(capsys, recording)
    assert (code, err) == (0, "")
    assert re.search(r"Requests: \d+ arrived, \d+ finished \(\d+ length\)", out)
    assert re.search(r"Together: correlation -0\.\d\d ± 0\.\d\d; the pair of buckets is certain for \d+%", out)
    for text in (
        "which requests share which prefix",
        "temperature and other sampling parameters",
        "Assumed in a replay",
        "requests finish about in the order in which they arrived",
    ):
        assert text in out


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_profiles_are_those_of_the_schema(form: str, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = shape(capsys, recording, "--format", form)
    found = Profile.model_validate(yaml.safe_load(out))
    assert sum(found.prompt_tokens.counts) == found.requests.finished
    rows = [sum(row) for row in found.joint.counts]
    assert rows == found.prompt_tokens.counts, "the sums of the rows are certain"
    columns = [sum(column) for column in zip(*found.joint.counts, strict=True)]
    assert columns == found.output_tokens.counts


def test_the_schema_in_the_documents_is_that_of_the_code(pytestconfig: pytest.Config) -> None:
    text = json.dumps(schema(), indent=2) + "\n"
    if pytestconfig.getoption("--update-golden"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text, f"{SCHEMA} differs: pytest --update-golden {__file__}"


def test_the_same_recording_and_seed_give_the_same_profile(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles = [shape(capsys, recording, "--format", "json", "--seed", seed)[1] for seed in (1, 1, 2)]
    assert profiles[0] == profiles[1]
    assert profiles[0] != profiles[2]


def test_a_profile_is_a_source_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = shape(capsys, folder / "profile.json", "-o", tmp_path / "again", "--url", "http://h:1")
    assert code == 0, err
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        path.name: path.read_text() for path in (tmp_path / "again").iterdir()
    }


def test_every_tool_gets_its_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"profile.json", "trace.jsonl", "vllm-bench.sh", "guidellm.sh", "inference-perf.yaml", "k6.js"} <= names
    assert tuple(TOOLS) == NAMES
    for path in folder.glob("*.sh"):
        assert path.stat().st_mode & 0o111
        subprocess.run(["sh", "-n", path], check=True)


def test_the_trace_has_the_lengths_and_prefixes_of_the_profile(folder: Path) -> None:
    profile = json.loads((folder / "profile.json").read_text())
    rows = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    block = profile["prefix"]["block_tokens"]
    assert [row["input_length"] for row in rows] == profile["replay"]["prompt_tokens"]
    assert all(len(row["hash_ids"]) == ceil(row["input_length"] / block) for row in rows)
    assert all(later["timestamp"] >= row["timestamp"] >= 0.0 for row, later in pairwise(rows))
    seen: set[int] = set()
    hits = 0
    for row in rows:  # a cache without eviction, which computes the last token
        leading = next((at for at, each in enumerate(row["hash_ids"]) if each not in seen), len(row["hash_ids"]))
        hits += min(leading * block, row["input_length"] - 1)
        seen.update(row["hash_ids"])
    ratio = hits / sum(row["input_length"] for row in rows)
    assert ratio == pytest.approx(profile["prefix"]["hit_ratio"], abs=0.03)


def test_the_script_of_vllm_bench_runs_with_further_arguments(folder: Path, tmp_path: Path) -> None:
    """A stand-in for vllm prints its arguments."""
    stub = tmp_path / "vllm"
    stub.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    stub.chmod(0o755)
    run = subprocess.run(
        [folder / "vllm-bench.sh", "--tokenizer", "a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments = run.stdout.splitlines()
    assert arguments[:3] == ["bench", "serve", "--dataset-path"]
    assert Path(arguments[3]).samefile(folder / "trace.jsonl")
    assert arguments[-2:] == ["--tokenizer", "a b"]
    assert arguments[arguments.index("--base-url") + 1] == "http://h:1"


def test_the_script_of_guidellm_names_the_trace_as_json(folder: Path, tmp_path: Path) -> None:
    """A stand-in for guidellm prints its arguments; 0.8 takes a trace as a source of its own."""
    stub = tmp_path / "guidellm"
    stub.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    stub.chmod(0o755)
    run = subprocess.run(
        [folder / "guidellm.sh", "--seed", "a b"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments = run.stdout.splitlines()
    assert arguments[-2:] == ["--seed", "a b"]
    data = json.loads(arguments[arguments.index("--data") + 1])
    profile = json.loads((folder / "profile.json").read_text())
    assert (data["kind"], data["hash_id_block_size"]) == ("mooncake", profile["prefix"]["block_tokens"])
    assert Path(data["source"].pop("path")).samefile(folder / "trace.jsonl")
    assert data["source"] == {"kind": "json_file"}


def test_inference_perf_gets_times_and_lengths(folder: Path) -> None:
    config = yaml.safe_load((folder / "inference-perf.yaml").read_text())
    assert config["load"]["trace"] == config["data"]["trace"] == {
        "file": "inference-perf-trace.csv", "format": "AzurePublicDataset"
    }  # fmt: skip
    with (folder / "inference-perf-trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    profile = json.loads((folder / "profile.json").read_text())
    assert [int(row["ContextTokens"]) for row in rows] == profile["replay"]["prompt_tokens"]
    assert [int(row["GeneratedTokens"]) for row in rows] == profile["replay"]["output_tokens"]
    prefixed = yaml.safe_load((folder / "inference-perf-prefix.yaml").read_text())
    (stage,) = prefixed["load"]["stages"]
    assert int(stage["rate"] * stage["duration"]) == len(rows), "inference-perf sends so many"


def test_files_of_users_stay_unless_forced(folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "k6.js").write_text("mine")
    code, _, err = shape(capsys, recording, "-o", folder)
    assert code == 1
    assert "already has profile.json, trace.jsonl" in err
    assert (folder / "k6.js").read_text() == "mine"
    assert shape(capsys, recording, "-o", folder, "--force", "--for", "vllm-bench")[0] == 0
    assert (folder / "k6.js").read_text() == "mine", "it belongs to another tool"


def test_the_same_load_is_expected_and_found(
    folder: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = shape(capsys, recording, "--expect", folder / "profile.json")
    assert (code, out.splitlines()[-1]) == (0, "the same load, within the bounds")
    other = recorded.write(tmp_path / "other.gz", recorded.polls("healthy", 60))
    code, out, _ = shape(capsys, other, "--expect", folder / "profile.json")
    assert code == 3
    assert out.splitlines()[-1].startswith("another load: requests, ")


@pytest.mark.slow
def test_adapters_have_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.write(
        tmp_path / "lora.gz",
        recorded.polls("healthy", 200, **{"server.max_loras": 2, "server.adapters": 2, "traffic.rate": 0.3}),
    )
    _, out, _ = shape(capsys, path, "--format", "json")
    adapters = json.loads(out)["adapters"]
    assert adapters.keys() == {"adapter-1", "adapter-2"}
    assert all(share == pytest.approx(0.5, abs=0.2) for share in adapters.values())


@pytest.mark.slow
def test_an_incident_that_changes_its_prefixes_is_replayed_with_that_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded.write(tmp_path / "drop.gz", recorded.polls("healthy 120s -> prefix-drop 120s -> healthy", 240))
    _, out, _ = shape(capsys, path, "--format", "json")
    replay = json.loads(out)["replay"]
    parts = [
        sum(shared for at, shared in zip(replay["at"], replay["shared_tokens"], strict=True) if low <= at < high)
        for low, high in ((20, 110), (140, 230))
    ]
    assert parts[1] < 0.1 * parts[0]


def test_half_a_recording_is_exported_with_a_note(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half.gz"
    half.write_bytes(recording.read_bytes()[: recording.stat().st_size * 3 // 4])
    code, out, _ = shape(capsys, half)
    assert code == 0
    assert "the recording is not complete: the file ends early" in out


@pytest.mark.slow
def test_a_restart_is_no_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded.write(tmp_path / "crash.gz", recorded.polls("crash-loop 100s -> healthy", 100))
    code, out, _ = shape(capsys, path, "--format", "json")
    found = json.loads(out)
    assert (code, found["window"]["restarts"]) == (0, 3)
    assert found["requests"]["arrived"] < 100 * 4 * 1.2
    assert any("polls failed (refused)" in text for text in found["unknown"])


@pytest.mark.parametrize(
    ("script", "seconds", "expected"),
    [
        ("stall", 1, "no two polls of one engine within a minute"),
        ("sleep 60s -> healthy", 30, "no request finished in 29s with 30 polls"),
    ],
)
def test_a_window_without_requests_says_what_is_known(
    script: str, seconds: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recorded.write(tmp_path / "empty.gz", recorded.polls(script, seconds))
    code, out, err = shape(capsys, path)
    assert (code, out) == (1, "")
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "no server: give its address, a recording, --from or --prometheus"),
        (("http://a:1", "--from", "http://b:1"), "one source at a time: got --from and http://a:1"),
        (("a.gz", "b.gz"), "give one recording or profile, or addresses such as http://localhost:8000"),
        (("/missing.gz",), "cannot read /missing.gz: No such file"),
        ((CAPTURES / "0.32.0__baseline__load.prom",), "is neither a recording nor a profile: a recording is made with"),
        (("--from", "http://127.0.0.1:1"), "no metrics of a sidecar: http://127.0.0.1:1/metrics: Connection refused"),
        (("http://127.0.0.1:1", "--window", "1s"), "no traffic was seen: refused: http://127.0.0.1:1/metrics"),
        (("--prometheus", "http://127.0.0.1:1"), "Prometheus: refused: http://127.0.0.1:1/api/v1/query"),
        (("x.gz", "--select", "a"), "--select and --at belong to --prometheus"),
        (("x.gz", "--for", "k6"), "--for and --force belong to -o FOLDER"),
        (("x.gz", "--expect", "p", "--format", "json"), "--expect prints a table: leave out --format"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[object, ...], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_SIDECAR_VLLM_HEADLESS", "true") if not arguments else None
    code, out, err = shape(capsys, *arguments)
    assert (code, out) == (1, "")
    assert expected in err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shape": 2}, "shape: Input should be 1"),
        ({"prefix": {"hit_ratio": 2, "block_tokens": 16, "prefixes": 1}}, "prefix.hit_ratio: Input should be less"),
        (
            {"replay": {"at": [2, 1], "prompt_tokens": [1, 1], "output_tokens": [1, 1], "shared_tokens": [0, 0]}},
            "ascend",
        ),
        ({"replay": {"at": [1], "prompt_tokens": [], "output_tokens": [], "shared_tokens": []}}, "differ in length"),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
    ],
)
def test_mistakes_of_a_profile_are_named(
    change: dict[str, object], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "profile.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    code, _, err = shape(capsys, path)
    assert code == 1
    assert f"{path}: " in err
    assert expected in err


@pytest.mark.slow
def test_several_models_need_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = sorted(
        (*recorded.polls("healthy", 30), *recorded.polls("healthy", 30, 1, **{"server.model_name": "other"})),
        key=lambda each: each.at,
    )
    path = recorded.write(tmp_path / "two.gz", events, "a", "b")
    code, _, err = shape(capsys, path)
    assert code == 1
    assert "add --model with one of meta-llama/Llama-3.1-8B-Instruct, other" in err
    code, out, _ = shape(capsys, path, "--model", "other", "--format", "json")
    assert (code, json.loads(out)["model"]) == (0, "other")
    assert "no engine of the model third was seen" in shape(capsys, path, "--model", "third")[2]


@pytest.mark.slow
@pytest.mark.parametrize("through", ["server", "sidecar"])
def test_ctrl_c_exports_what_was_seen_so_far(through: str) -> None:
    with simulator("--speed", "3") as (_, url), sidecar("--vllm.url", url) as base:
        source = [url] if through == "server" else ["--from", base]
        command = [sys.executable, "-m", "vllm_sidecar", "shape", *source, "--window", "300s"]
        environment = os.environ | {"PYTHONPATH": str(EXPORTER)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            time.sleep(12.0)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "meta-llama/Llama-3.1-8B-Instruct: " in out
    assert "\033" not in out


@pytest.mark.slow
def test_a_server_and_its_sidecar_show_the_same_load(capsys: pytest.CaptureFixture[str]) -> None:
    with simulator("--speed", "3") as (_, url), sidecar("--vllm.url", url) as base:
        time.sleep(3.0)
        code, out, err = shape(capsys, url, "--window", "10s", "--format", "json")
        assert (code, err) == (0, "")
        direct = json.loads(out)
        code, out, err = shape(capsys, "--from", base, "--window", "10s", "--format", "json")
        assert (code, err) == (0, "")
        through = json.loads(out)
        assert shape(capsys, "--from", url, "--window", "2s")[2].endswith("without --from its metrics are read\n")
    assert through["model"] == direct["model"]
    assert through["prefix"]["block_tokens"] == direct["prefix"]["block_tokens"] == 16
    for name in ("prompt_tokens", "output_tokens"):
        assert through[name]["bounds"] == direct[name]["bounds"]
        assert through[name]["mean"] == pytest.approx(direct[name]["mean"], rel=0.3)


@pytest.mark.e2e
def test_the_past_is_in_a_real_prometheus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        simulator() as (_, url),
        sidecar("--vllm.url", url) as base,
        prometheus(tmp_path, configuration(2, job("vllm-sidecar", base))) as server,
    ):
        time.sleep(30.0)
        code, out, err = shape(capsys, "--prometheus", server.url, "--window", "1m", "--format", "json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        assert found["requests"]["arrived"] == pytest.approx(4 * found["window"]["seconds"], rel=0.4)
        assert any("Prometheus scraped each 2 s" in text for text in found["unknown"])
        code, _, err = shape(capsys, "--prometheus", server.url, "--select", 'pod="x"')
        assert code == 1
        assert 'no sample of vllm_sidecar_request_prompt_tokens_bucket with {pod="x"} in the 1h' in err
        assert (
            "Check --select: matchers are written as in PromQL"
            in shape(capsys, "--prometheus", server.url, "--select", "x=")[2]
        )
