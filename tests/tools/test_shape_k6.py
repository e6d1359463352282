"""The script for k6, run as it is written by Node.js, with replacements of k6's modules and a simulated clock."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import planned
import pytest
from places import TESTS

from vllm_sidecar.cli import main
from vllm_sidecar.tools.shape.exports import files, k6
from vllm_sidecar.tools.shape.profile import read_profile

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.tools.shape.profile import Profile

pytestmark = [
    pytest.mark.io,
    pytest.mark.skipif(shutil.which("node") is None, reason="no node: apt-get install nodejs"),
]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("k6")
    path = planned.record(folder / "known.gz", planned.known(100), 120)
    assert main(["shape", str(path), "-o", str(folder / "load"), "--prefixes", "3"]) == 0
    return read_profile(folder / "load" / "profile.json")


def run(profile: Profile, folder: Path, answer_seconds: float = 2.0, **environment: str) -> dict[str, Any]:
    """Run the script of a profile; return its options and what it sent, in the order of time."""
    for name, text in files(profile, ["k6"], "http://h:1").items():
        (folder / name).write_text(text)
    shutil.copytree(TESTS / "support" / "k6", folder / "node_modules" / "k6", dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    shutil.copy(TESTS / "support" / "k6" / "run.js", folder)
    command = ["node", folder / "run.js", folder / "k6.js", json.dumps(environment), str(answer_seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    found["sent"].sort(key=lambda each: each["at"])
    return found


def test_requests_have_the_times_lengths_and_prefixes_of_the_profile(profile: Profile, tmp_path: Path) -> None:
    found = run(profile, tmp_path, VOCABULARY="4096")
    sent, replay = found["sent"], profile.replay
    times = [(each["at"] - found["data"]["began"]) / 1000.0 for each in sent]
    assert times == pytest.approx(replay.at, abs=0.002)
    bodies = [each["body"] for each in sent]
    assert [len(each["prompt"]) for each in bodies] == replay.prompt_tokens
    assert [each["max_tokens"] for each in bodies] == replay.output_tokens
    assert all(100 <= token < 4096 for each in bodies for token in each["prompt"])
    assert all(each["ignore_eos"] and not each["stream"] for each in bodies)
    alike = [number for number, tokens in enumerate(replay.shared_tokens) if number % 3 == 0 and tokens >= 64]
    assert len(alike) > 5
    assert len({tuple(bodies[number]["prompt"][:64]) for number in alike}) == 1
    assert len({tuple(each["prompt"][-16:]) for each in bodies}) == len(bodies)


def test_options_let_every_request_be_sent_and_end(profile: Profile, tmp_path: Path) -> None:
    found = run(profile, tmp_path)
    (scenario,) = found["options"]["scenarios"].values()
    assert scenario["vus"] == len(profile.replay.at)
    assert float(scenario["maxDuration"].removesuffix("s")) > profile.replay.at[-1] + 600.0, "the longest answer"
    assert found["options"]["thresholds"] == {"checks": ["rate>0.99"]}


def test_users_that_send_several_requests_send_each_at_its_time(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(k6, "MOST_USERS", 40)
    found = run(profile, tmp_path, answer_seconds=0.5)
    assert found["options"]["scenarios"]["trace"]["vus"] == 40
    times = [(each["at"] - found["data"]["began"]) / 1000.0 for each in found["sent"]]
    assert times == pytest.approx(profile.replay.at, abs=0.002)


def test_the_environment_chooses_server_model_and_key(profile: Profile, tmp_path: Path) -> None:
    first = run(profile, tmp_path)["sent"][0]
    assert (first["url"], first["body"]["model"]) == ("http://h:1/v1/completions", profile.model)
    assert "Authorization" not in first["headers"]
    first = run(profile, tmp_path, URL="http://other:2", MODEL="m2", API_KEY="k")["sent"][0]
    assert (first["url"], first["body"]["model"]) == ("http://other:2/v1/completions", "m2")
    assert first["headers"]["Authorization"] == "Bearer k"


def test_adapters_have_their_shares(profile: Profile, tmp_path: Path) -> None:
    sent = run(profile.model_copy(update={"adapters": {"a": 0.5, "b": 0.25}}), tmp_path)["sent"]
    models = [each["body"]["model"] for each in sent]
    assert set(models) == {"a", "b", profile.model}
    for model, share in (("a", 0.5), ("b", 0.25), (profile.model, 0.25)):
        assert models.count(model) / len(models) == pytest.approx(share, abs=0.15)
