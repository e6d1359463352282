"""rules/thresholds.yaml: complete, checked, and the nearest setting holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from places import RULES

from vllm_sidecar.catalog.alerts import ALERTS, Alert, Profile
from vllm_sidecar.config import ConfigError
from vllm_sidecar.generate.settings.thresholds import Thresholds, knows_model, load_thresholds, resolve

if TYPE_CHECKING:
    from pathlib import Path

FILE = RULES / "thresholds.yaml"
QUEUE = next(alert for alert in ALERTS if alert.name == "VllmQueueWaitHigh")
TUNED = [alert for alert in ALERTS if alert.hold]


def read(folder: Path, text: str) -> Thresholds:
    file = folder / "t.yaml"
    file.write_text(text)
    return load_thresholds(file)


def mistakes(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return caught.value.mistakes


@pytest.mark.parametrize("alert", TUNED, ids=lambda alert: alert.name)
def test_the_committed_file_holds_every_number_of_an_alert_with_its_default(alert: Alert) -> None:
    written = yaml.safe_load(FILE.read_text())["alerts"][alert.name]
    assert set(written) == {"severity", "for", *(each.name for each in alert.thresholds)}
    committed = load_thresholds(FILE)
    for profile in Profile:
        of_profile = committed.model_copy(update={"profile": profile.value})
        assert resolve(of_profile, alert) == resolve(Thresholds(profile=profile.value), alert)


def test_the_committed_file_names_every_key_and_no_alert_that_does_not_exist() -> None:
    document = yaml.safe_load(FILE.read_text())
    assert list(document) == list(Thresholds.model_fields)
    assert list(document["alerts"]) == [alert.name for alert in TUNED]


@pytest.mark.parametrize(
    ("text", "wait", "hold", "severity"),
    [
        ("{}", 10.0, 60.0, "page"),
        ("profile: interactive", 2.0, 60.0, "page"),
        ("alerts: {VllmQueueWaitHigh: {wait: 4s, for: 2m, severity: ticket}}", 4.0, 120.0, "ticket"),
        ("alerts: {VllmQueueWaitHigh: {wait: {batch: 4s}}}", 10.0, 60.0, "page"),
        ("models: {m: {profile: interactive}}", 2.0, 60.0, "page"),
        ("models: {m: {profile: interactive}}\nalerts: {VllmQueueWaitHigh: {wait: 4s}}", 4.0, 60.0, "page"),
        (
            "models: {m: {profile: batch}}\nalerts: {VllmQueueWaitHigh: {wait: {interactive: 1s, batch: 4s}}}",
            4.0, 60.0, "page",
        ),
        (
            "models: {m: {alerts: {VllmQueueWaitHigh: {wait: 3s}}}}\nalerts: {VllmQueueWaitHigh: {wait: 4s, for: 3m}}",
            3.0, 180.0, "page",
        ),
        ("models: {m: {alerts: {VllmQueueWaitHigh: {severity: info}}}}", 10.0, 60.0, "info"),
    ],
)  # fmt: skip
def test_the_nearest_setting_holds_for_a_model(
    text: str, wait: float, hold: float, severity: str, tmp_path: Path
) -> None:
    thresholds = read(tmp_path, text)
    settings = resolve(thresholds, QUEUE, "m" if thresholds.models else None)
    assert (settings.values["wait"], settings.hold, settings.severity) == (wait, hold, severity)


def test_an_alert_that_is_switched_off_for_all_is_off_for_a_model_too(tmp_path: Path) -> None:
    text = "models: {m: {profile: batch}}\nalerts: {VllmQueueWaitHigh: {enabled: false}}"
    assert not resolve(read(tmp_path, text), QUEUE, "m").enabled


def test_labels_and_annotations_add_up_and_the_nearest_wins(tmp_path: Path) -> None:
    text = (
        "labels: {team: a, tier: x}\n"
        "alerts: {VllmQueueWaitHigh: {labels: {team: b}}}\n"
        "models: {m: {alerts: {VllmQueueWaitHigh: {labels: {team: c}, annotations: {note: n}}}}}\n"
    )
    settings = resolve(read(tmp_path, text), QUEUE, "m")
    assert (settings.labels, settings.annotations) == ({"team": "c", "tier": "x"}, {"note": "n"})


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
profile: fast
selector: cluster=a
sidecar_job: "("
labels: {severity: x, 3: y}
alerts:
  VllmQueueWaitHigh: {wait: 3, fro: 2m}
  VllmQueueWaitHihg: {}
  VllmErrorRatioHigh: {errors: 5, severity: watchdog}
models:
  a/b.c:
    alerts:
      VllmSidecarDown: {}
      VllmQueueWaitHigh: {wait: {slow: 2s}}
"""
    found = mistakes(tmp_path, text)
    assert [mistake.partition(": got")[0].partition(": unknown")[0] for mistake in found] == [
        "line 1: profile",
        "line 2: selector",
        "line 3: sidecar_job",
        "line 4: labels.severity",
        "line 4: labels.3",
        "line 6: alerts.VllmQueueWaitHigh.wait",
        "line 6: alerts.VllmQueueWaitHigh.fro",
        "line 7: alerts.VllmQueueWaitHihg",
        "line 8: alerts.VllmErrorRatioHigh.severity",
        "line 8: alerts.VllmErrorRatioHigh.errors",
        "line 12: models.a/b.c.alerts.VllmSidecarDown",
        "line 13: models.a/b.c.alerts.VllmQueueWaitHigh.wait",
    ]
    assert found[6].endswith("did you mean for?")
    assert found[7].endswith("did you mean VllmQueueWaitHigh?")
    assert "or one for each of interactive, standard, batch" in found[11]


@pytest.mark.parametrize("selector", ['model_name="x"', 'a="b",model_name=~"y"'])
def test_a_selector_of_models_is_sent_to_the_models(selector: str, tmp_path: Path) -> None:
    assert "settings of a model go to models" in mistakes(tmp_path, f"selector: '{selector}'")[0]


def test_only_alerts_whose_series_name_a_model_can_be_set_for_one() -> None:
    assert knows_model(QUEUE)
    assert not any(knows_model(alert) for alert in ALERTS if alert.name.startswith(("VllmGpu", "VllmSidecar")))
