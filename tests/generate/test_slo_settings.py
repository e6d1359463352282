"""The section `slos` of the thresholds: defaults, what goes before what, and mistakes told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from places import RULES

from vllm_sidecar.catalog.alerts import Profile
from vllm_sidecar.catalog.objectives import BURNS, SLOS, CountedFrom
from vllm_sidecar.config import ConfigError
from vllm_sidecar.generate.settings.slo_settings import SloSettings
from vllm_sidecar.generate.settings.thresholds import Thresholds, load_thresholds
from vllm_sidecar.generate.slo_resolution import burns_of, resolve_objectives
from vllm_sidecar.generate.slo_rules import slo_rules

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_sidecar.generate.slo_variants import ResolvedObjective, Variant


def variants(slo: str, **settings: Any) -> list[Variant]:
    found = {each.name: every for each, every in resolve_objectives(Thresholds.model_validate(settings)).objectives}
    return found.get(slo, [])


def one(slo: str, **settings: Any) -> ResolvedObjective:
    (variant,) = variants(slo, **settings)
    return variant.settings


def mistakes(**settings: Any) -> tuple[str, ...]:
    try:
        resolve_objectives(Thresholds.model_validate(settings))
    except ConfigError as error:
        return error.mistakes
    return ()


@pytest.mark.parametrize(("profile", "seconds"), [("interactive", 0.5), ("standard", 2.5), ("batch", 10.0)])
def test_a_profile_decides_thresholds(profile: str, seconds: float) -> None:
    assert one("time_to_first_token", profile=profile).threshold == seconds


def test_what_is_said_of_an_objective_goes_before_the_profile() -> None:
    assert one("time_to_first_token", slos={"time_to_first_token": {"threshold": "5s"}}).threshold == 5.0
    some = {"time_to_first_token": {"threshold": {"batch": "20s"}}}
    assert one("time_to_first_token", slos=some).threshold == 2.5
    assert one("time_to_first_token", slos=some, profile="batch").threshold == 20.0


def test_a_model_goes_before_all_others_and_is_left_out_of_their_rules() -> None:
    models = {
        "a": {"profile": "interactive"},
        "b": {"slos": {"time_to_first_token": {"threshold": "10s", "objective": 0.95}}},
        "c": {"slos": {"time_to_first_token": {"threshold": "2s500ms"}}},
    }
    found = variants("time_to_first_token", models=models)
    assert [(each.matcher, each.settings.threshold, each.settings.objective) for each in found] == [
        ('model_name="a"', 0.5, 0.99),
        ('model_name="b"', 10.0, 0.95),
        ('model_name!~"a|b"', 2.5, 0.99),
    ]
    assert [each.models for each in found] == [("a",), ("b",), ()]
    assert len(variants("availability", models=models)) == 1


def test_a_source_is_that_of_the_objective_else_the_sections_else_the_default() -> None:
    assert one("time_to_first_token").source is CountedFrom.HISTOGRAM
    assert one("availability").source is CountedFrom.SIDECAR
    assert one("time_to_first_token", slos={"source": "sidecar"}).source is CountedFrom.SIDECAR
    mixed = {"source": "sidecar", "time_to_first_token": {"source": "histogram"}}
    assert one("time_to_first_token", slos=mixed).source is CountedFrom.HISTOGRAM


def test_objectives_can_be_switched_off_one_by_one_and_all_at_once() -> None:
    assert variants("request_duration") == []
    assert len(variants("request_duration", slos={"request_duration": {"enabled": True}})) == 1
    assert variants("availability", slos={"availability": {"enabled": False}}) == []
    assert slo_rules(Thresholds.model_validate({"slos": {"enabled": False}})).groups == []


def test_a_model_can_have_an_objective_that_others_have_not() -> None:
    models = {"a": {"slos": {"request_duration": {"enabled": True}}}}
    assert [each.matcher for each in variants("request_duration", models=models)] == ['model_name="a"']


@pytest.mark.parametrize(
    ("objective", "factors"),
    [(0.999, [14.4, 6, 3, 1]), (0.95, [14.4, 6, 3, 1]), (0.9, [8, 6, 3, 1]), (0.5, [1.6, 1.6, 1.6, 1])],
)
def test_default_factors_are_lowered_to_what_a_budget_can_reach(objective: float, factors: list[float]) -> None:
    thresholds = Thresholds.model_validate({"slos": {"availability": {"objective": objective}}})
    settings = one("availability", slos={"availability": {"objective": objective}})
    assert [burn.factor for burn in burns_of(settings, thresholds)] == factors
    assert all(burn.factor < 1 / (1 - objective) for burn in burns_of(settings, thresholds))


def burn(**changes: Any) -> dict[str, Any]:
    return {"long": "1h", "short": "5m", "factor": 10.0, "severity": "page", "for": "2m", **changes}


def test_a_factor_that_was_asked_for_and_can_never_be_exceeded_is_refused() -> None:
    slos = {"burn": [burn(factor=2.0), burn(factor=10.0, long="6h")], "availability": {"objective": 0.9}}
    (told,) = mistakes(slos=slos)
    assert told == (
        "slos.burn.1.factor: 10 can never be exceeded by availability, whose objective of 0.9 allows a burn of 10 at "
        "most (all observations bad); allowed: a factor below 10, or a higher objective"
    )
    assert mistakes(slos={**slos, "burn": [burn(factor=9.9)]}) == ()


def test_all_thresholds_that_are_not_bounds_are_reported_at_once() -> None:
    found = mistakes(
        slos={"time_to_first_token": {"threshold": "2s"}, "inter_token_latency": {"threshold": "60ms"}},
        models={"a": {"slos": {"time_to_first_token": {"threshold": "3s"}}}},
    )
    assert [text.split(" is not ")[0] for text in found] == [
        "slos.time_to_first_token.threshold: 2s",
        "models.a.slos.time_to_first_token.threshold: 3s",
        "slos.inter_token_latency.threshold: 60ms",
    ]


@pytest.mark.parametrize(
    "slos",
    [
        {"time_to_first_token": {"threshold": "2s", "enabled": False}},
        {"time_to_first_token": {"threshold": "2s", "source": "sidecar"}},
        {"time_to_first_token": {"threshold": "2s"}, "source": "sidecar"},
        {"time_to_first_token": {"threshold": "2s"}, "buckets": {"time_to_first_token": [1, 2, 5]}},
    ],
    ids=["off", "counted by the sidecar", "all counted by the sidecar", "custom buckets"],
)
def test_no_bound_is_needed_where_none_is_read(slos: dict[str, Any]) -> None:
    assert mistakes(slos=slos) == ()


def test_snapping_is_told_and_can_be_asked_for_in_three_places() -> None:
    off = {"time_to_first_token": {"threshold": "2s"}}
    for settings in (
        {"slos": {**off, "snap": True}},
        {"slos": {"time_to_first_token": {"threshold": "2s", "snap": True}}},
    ):
        settled = resolve_objectives(Thresholds.model_validate(settings))
        assert [note.split(";")[0] for note in settled.notes] == [
            "slos.time_to_first_token.threshold: 2s is not a bucket bound of vLLM's defaults: 2s500ms is used instead"
        ]
    models = {"a": {"slos": {"time_to_first_token": {"threshold": "3s", "snap": True}}}}
    assert mistakes(models=models) == ()


def test_every_mistake_in_the_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.yaml"
    path.write_text(
        "slos:\n"
        "  source: prometheus\n"
        "  observations: 0\n"
        "  buckets: {time_to_first_token: [2, 1], ttft: [1]}\n"
        "  burn:\n"
        "    - {long: 5m, short: 1h, factor: 0, severity: loud, for: 2m}\n"
        "  availability: {objective: 99.9, threshold: 1s}\n"
        "  time_to_first_token: {threshold: {fast: 1s}, snap: yes}\n"
        "models:\n"
        "  a: {slos: {inter_token_latency: {threshold: 2.5}}}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_thresholds(path)
    told = [text.partition(": ")[2] if text.startswith("line") else text for text in error.value.mistakes]
    assert [text.partition(":")[0] for text in told] == [
        "slos.source",
        "slos.observations",
        "slos.buckets.time_to_first_token",
        "slos.buckets.ttft",
        "slos.burn.0.short",
        "slos.burn.0.factor",
        "slos.burn.0.severity",
        "slos.availability.objective",
        "slos.availability.threshold",
        "slos.time_to_first_token.threshold",
        "slos.time_to_first_token.snap",
        "models.a.slos.inter_token_latency.threshold",
    ]
    assert all(text.startswith("line ") for text in error.value.mistakes)


def test_labels_and_annotations_reach_the_alerts_of_an_objective() -> None:
    settings = {
        "labels": {"team": "a"},
        "slos": {"availability": {"labels": {"team": "b"}, "annotations": {"note": "x", "summary": "y"}}},
    }
    alerts = [
        rule
        for group in slo_rules(Thresholds.model_validate(settings)).groups
        for rule in group["rules"]
        if "alert" in rule
    ]
    teams = {rule["labels"]["slo"]: rule["labels"]["team"] for rule in alerts}
    assert teams == {slo.name: "b" if slo.name == "availability" else "a" for slo in SLOS if slo.enabled}
    texts = [rule["annotations"] for rule in alerts if rule["labels"]["slo"] == "availability"]
    assert {(text["note"], text["summary"]) for text in texts} == {("x", "y")}


def test_the_default_windows_use_up_what_the_catalog_says() -> None:
    assert [round(burn.factor * burn.long / (30 * 86_400), 3) for burn in BURNS] == [0.02, 0.05, 0.1, 0.1]


FILE = RULES / "thresholds.yaml"


def test_the_committed_file_holds_every_key_with_its_default() -> None:
    written = yaml.safe_load(FILE.read_text())["slos"]
    assert list(written) == list(SloSettings.model_fields)
    for slo in SLOS:
        assert list(written[slo.name]) == ["enabled", "objective", *(["threshold"] if slo.histogram else []), "source"]
    committed = load_thresholds(FILE)
    for profile in Profile:
        of_profile = committed.model_copy(update={"profile": profile.value})
        assert resolve_objectives(of_profile) == resolve_objectives(Thresholds(profile=profile.value))
    assert committed.slos.burn == Thresholds().slos.burn
    assert {
        name: getattr(committed.slos, name) for name in ("enabled", "source", "snap", "observations", "buckets")
    } == {name: getattr(Thresholds().slos, name) for name in ("enabled", "source", "snap", "observations", "buckets")}
