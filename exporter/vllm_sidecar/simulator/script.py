"""The phases that the simulator runs, from a line of text or a YAML file."""

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainValidator

from vllm_sidecar.config import ConfigError, parse_duration
from vllm_sidecar.config.loader import load_as
from vllm_sidecar.config.overrides import from_flags
from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import as_tuple, not_allowed
from vllm_sidecar.simulator.scenarios import SCENARIOS, Scenario
from vllm_sidecar.simulator.settings import Conditions, ServerSettings

CALM_SECONDS = 60.0
INCIDENT_SECONDS = 180.0
DIALECT = Literal["v0", "0.9", "0.11", "0.33", "rust", "ray"]
_ARROW = re.compile(r"\s*->\s*")


class Phase(NamedTuple):
    """A scenario and its duration in seconds; the last phase never ends."""

    scenario: Scenario
    seconds: float


def parse_phase(text: object) -> Phase:
    """Parse a phase: a scenario and its duration, as in `kv-exhaustion 120s`.

    Raises:
        PydanticCustomError: it is not a phase.
    """
    words = text.split() if isinstance(text, str) else []
    if len(words) not in (1, 2):
        raise not_allowed("a scenario and its duration, such as 'kv-exhaustion 120s'")
    scenario = SCENARIOS.get(words[0])
    if scenario is None:
        near = difflib.get_close_matches(words[0], SCENARIOS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise not_allowed(f"one of the scenarios {', '.join(SCENARIOS)}{hint}")
    return Phase(scenario, parse_duration(words[1]) if len(words) == 2 else math.inf)


class Script(Section):
    """All settings of a run of the simulator; the same script results in the same run."""

    phases: Annotated[
        tuple[Annotated[Phase, PlainValidator(parse_phase)], ...], BeforeValidator(as_tuple)
    ] = ()  # fmt: skip
    server: ServerSettings = ServerSettings()
    traffic: Conditions = Conditions()
    seed: int = 1
    speed: float = Field(default=1.0, gt=0, le=10_000)
    dialect: DIALECT = "0.33"

    def problem(self) -> str | None:
        """Return why the script as a whole cannot run; None if it can."""
        if not self.phases:
            return "phases: missing; allowed: a list such as ['healthy 60s', 'stall 120s', healthy]"
        for phase in self.phases[:-1]:
            if math.isinf(phase.seconds):
                return f"phase '{phase.scenario.name}' has no duration, so no later phase would begin"
        if self.dialect == "v0" and self.settings().data_parallel_size > 1:
            return "dialect v0: that engine has no data parallelism, which the server or one of the scenarios needs"
        return None

    def settings(self) -> ServerSettings:
        """The server with the features that its scenarios need: LoRA, speculation, more engines."""
        needed: dict[str, int] = {}
        for phase in self.phases:
            for name, value in phase.scenario.server.items():
                needed[name] = max(value, needed.get(name, 0))
        given = self.server.model_dump(exclude_unset=True)
        return ServerSettings.model_validate({**needed, **given})

    def conditions(self, phase: Phase) -> Conditions:
        """Return the conditions of one phase."""
        around: dict[str, float] = {}
        for other in self.phases:
            around |= other.scenario.traffic
        return phase.scenario.conditions(around | self.traffic.model_dump(exclude_unset=True))


def read_script(text: str | None, file: Path | None, overrides: Mapping[str, object]) -> Script:
    """Make a script from phases in a line, from a file, or from both: then the line's phases replace the file's.

    A single scenario runs between healthy phases: `healthy 60s -> stall 180s -> healthy`.

    Raises:
        ConfigError: with all mistakes.
    """
    changes = dict(overrides)
    if text is not None or file is None:
        changes["phases"] = _phases(text or "healthy")
    script = load_as(Script, file, from_flags(changes))
    problem = script.problem()
    if problem:
        raise ConfigError(file, [problem])
    return script


def _phases(text: str) -> list[str]:
    parts = _ARROW.split(text.strip())
    if len(parts) > 1 or " " in parts[0] or parts[0] == "healthy":
        return parts
    return [f"healthy {CALM_SECONDS:g}s", f"{parts[0]} {INCIDENT_SECONDS:g}s", "healthy"]
