"""What the simulator plays: phases from text and from a file, and what is wrong with them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.config import ConfigError
from vllm_sidecar.simulator.scenarios import SCENARIOS
from vllm_sidecar.simulator.script import Script, read_script

if TYPE_CHECKING:
    from pathlib import Path


def phases(script: Script) -> list[tuple[str, float]]:
    return [(phase.scenario.name, phase.seconds) for phase in script.phases]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [("healthy", math.inf)]),
        ("healthy", [("healthy", math.inf)]),
        ("stall", [("healthy", 60.0), ("stall", 180.0), ("healthy", math.inf)]),
        ("sleep 10s", [("sleep", 10.0)]),
        ("healthy 1m -> stall 2m30s->healthy", [("healthy", 60.0), ("stall", 150.0), ("healthy", math.inf)]),
    ],
)
def test_phases_in_a_line(text: str | None, expected: list[tuple[str, float]]) -> None:
    assert phases(read_script(text, None, {})) == expected


def test_a_file_sets_server_traffic_and_phases_and_the_command_line_goes_before_it(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("speed: 2.0\nphases: [healthy 5s, stall]\nserver: {max_num_seqs: 3}\ntraffic: {rate: 1.5}\n")
    script = read_script(None, file, {"speed": 4.0})
    assert phases(script) == [("healthy", 5.0), ("stall", math.inf)]
    assert (script.speed, script.settings().max_num_seqs) == (4.0, 3)
    assert script.conditions(script.phases[1]).rate == 1.5
    assert phases(read_script("sleep 1s", file, {})) == [("sleep", 1.0)]


def test_a_server_gets_what_any_of_its_scenarios_needs_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    script = read_script("spec-collapse 1s -> dp-imbalance 1s", None, {})
    assert (script.settings().speculative_tokens, script.settings().data_parallel_size) == (4, 4)
    file = tmp_path / "script.yaml"
    file.write_text("phases: [dp-imbalance]\nserver: {data_parallel_size: 2}\n")
    assert read_script(None, file, {}).settings().data_parallel_size == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stal", "did you mean stall?"),
        ("healthy 5", "a duration such as"),
        ("healthy 5s ->", "a scenario and its duration"),
        ("healthy -> stall 5s", "phase 'healthy' has no duration, so no later phase would begin"),
    ],
)
def test_a_mistake_in_the_line_is_told_in_words(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_script(text, None, {})
    assert told in str(caught.value)


def test_all_mistakes_of_a_file_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "script.yaml"
    file.write_text("phases:\n- nap 5s\nserver:\n  max_num_seq: 3\nspeed: -1\n")
    with pytest.raises(ConfigError) as caught:
        read_script(None, file, {})
    first, second, third = caught.value.mistakes
    assert first.startswith("line 2: phases.0: got ")
    assert second == "line 4: server.max_num_seq: unknown key; did you mean max_num_seqs?"
    assert third == "line 5: speed: got -1; allowed: a number above 0"


def test_v0_has_no_data_parallelism() -> None:
    with pytest.raises(ConfigError, match="dialect v0"):
        read_script("dp-imbalance", None, {"dialect": "v0"})


def test_a_file_without_phases_is_told(tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("speed: 2\n")
    with pytest.raises(ConfigError, match="phases: missing"):
        read_script(None, tmp_path / "script.yaml", {})


def test_every_scenario_can_be_played() -> None:
    for name, scenario in SCENARIOS.items():
        script = read_script(f"{name} 1s", None, {})
        assert script.conditions(script.phases[0]).model_dump().items() >= scenario.changes.items()
