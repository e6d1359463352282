"""The rules that a recording is played through: those of a user's thresholds, for the one sidecar of the recording."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllm_sidecar.config import parse_duration
from vllm_sidecar.generate.rules import alert_groups
from vllm_sidecar.generate.settings.batch_hours import DAY, Hours
from vllm_sidecar.generate.settings.late_errors import LateError
from vllm_sidecar.generate.settings.thresholds import Thresholds, load_thresholds
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from vllm_sidecar.generate.rules import Group, Rule

LEAST_HISTORY = 3600.0
"""Seconds; rules that look back less far are not mentioned."""
_LOOKS_BACK = re.compile(r"(?:\[|offset )(\w+)")
_FURTHEST = 30 * 86_400.0


@dataclass(frozen=True)
class Rules:
    """Groups of rules, and what of the thresholds decides how they are evaluated."""

    groups: Sequence[Group]
    scrape: float
    evaluate: float
    severities: Mapping[str, str]
    """Severity of the catalog by the user's value of the label."""

    @property
    def text(self) -> str:
        """All rules as the text of a file: JSON is YAML, and quicker."""
        return json.dumps({"groups": self.groups})

    def needing_history(self, seconds: float) -> dict[str, float]:
        """Return the alerts that look back further than a recording of this length, with how far in seconds."""
        back: dict[str, float] = {}
        for rule in self._rules():
            name = str(rule.get("alert") or rule["record"])
            words = set(re.findall(r"[\w:]+", str(rule["expr"])))
            own = max((parse_duration(each, _FURTHEST) for each in _LOOKS_BACK.findall(str(rule["expr"]))), default=0.0)
            back[name] = max(back.get(name, 0.0), own, *(far for record, far in back.items() if record in words))
        alerts = {str(rule["alert"]) for rule in self._rules() if "alert" in rule}
        return {name: far for name, far in back.items() if name in alerts and far > max(seconds, LEAST_HISTORY)}

    def only(self, alerts: Collection[str]) -> Rules:
        """Return the rules without other alerts than these."""
        groups = [
            {
                **group,
                "rules": [rule for rule in group["rules"] if rule.get("alert") is None or rule["alert"] in alerts],
            }
            for group in self.groups
        ]
        return replace(self, groups=[group for group in groups if group["rules"]])

    def _rules(self) -> Iterator[Rule]:
        for group in self.groups:
            yield from group["rules"]


def rules_of(path: Path | None, midnight: float = 0.0) -> Rules:
    """Generate the rules with a file of thresholds; None for the defaults.

    The selector and the job of the file are those of the user's Prometheus; a recording has one sidecar without them.
    promtool starts at midnight, and a recording at any time: `midnight` is the Unix time that is midnight in promtool,
    for the hours of batches.

    Raises:
        ConfigError: The thresholds have mistakes.
    """
    own = Thresholds()
    given = load_thresholds(path)
    thresholds = _at(given, midnight).model_copy(update={"selector": own.selector, "sidecar_job": own.sidecar_job})
    try:
        groups = [*alert_groups(thresholds), *slo_rules(thresholds).groups]
    except LateError as error:
        raise error.located(path) from None
    severities = {thresholds.severity(name): name for name in type(thresholds.severities).model_fields}
    return Rules(groups, thresholds.scrape_interval, thresholds.evaluation_interval, severities)


def _at(thresholds: Thresholds, midnight: float) -> Thresholds:
    """Return thresholds whose hours of batches are relative to another midnight."""
    minutes = round(midnight / 60.0)

    def moved(hours: tuple[Hours, ...] | None) -> tuple[Hours, ...] | None:
        return hours and tuple(Hours((each.start - minutes) % DAY, (each.end - minutes) % DAY) for each in hours)

    models = {
        name: model.model_copy(update={"batch_hours": moved(model.batch_hours)})
        for name, model in thresholds.models.items()
    }
    return thresholds.model_copy(update={"batch_hours": moved(thresholds.batch_hours), "models": models})
