"""One incident is one notification in real Alertmanager, however many alerts it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import alertmanager
import newer
import pytest
from notifications import Received, sent

if TYPE_CHECKING:
    from pathlib import Path

    from notifications import Alert

pytestmark = pytest.mark.e2e
REPLICAS = 40
OWN_JOB, DAEMONSET_JOB = "llm/vllm-sidecar", "monitoring/vllm-sidecar-gpu"


@pytest.fixture(params=["installed", "newer"])
def program(request: pytest.FixtureRequest) -> str:
    """The Alertmanager on PATH, and one of the last releases."""
    return str(newer.program("prometheus-alertmanager")) if request.param == "newer" else alertmanager.program()


def page(alertname: str, model: str = "chat", **more: str) -> Alert:
    """Return a page, which is about a model."""
    labels = {"cluster": "c1", "namespace": "llm", "model_name": model, "severity": "page"}
    return labels | {"alertname": alertname} | more


def ticket(alertname: str, number: int, model: str = "chat", **more: str) -> Alert:
    """Return a ticket about the engine of one replica."""
    where = {"cluster": "c1", "namespace": "llm", "job": OWN_JOB, "node": f"node-{number}",
             "pod": f"{model}-{number}", "instance": f"10.0.0.{number}:10190"}  # fmt: skip
    labels = where | {"severity": "ticket", "alertname": alertname, "model_name": model, "engine": "0"} | more
    return {name: value for name, value in labels.items() if value}


def burns(slo: str, alertname: str, severity: str = "page") -> list[Alert]:
    """Return the burn alerts of an objective, one for each pair of windows."""
    windows = ("1h", "6h") if severity == "page" else ("1d", "3d")
    return [page(alertname, slo=slo, long_window=window, severity=severity) for window in windows]


def shown(received: Received) -> list[tuple[str, list[str]]]:
    """Return all notifications in few words, for a failed assertion."""
    return [(each.receiver, sorted(each.names)) for receiver in ("vllm-page", "vllm-ticket")
            for each in received.notifications(receiver)]  # fmt: skip


def test_an_overload_of_forty_replicas_with_admission_control_is_one_page(program: str, tmp_path: Path) -> None:
    alerts = [page("VllmQueueWaitHigh"), page("VllmRejectionRatioHigh"), page("VllmAbortRatioHigh")]
    alerts += burns("time_to_first_token", "VllmTimeToFirstTokenSloBurn")
    alerts += burns("availability", "VllmAvailabilitySloBurn")
    alerts += burns("availability", "VllmAvailabilitySloBurn", "ticket")
    for number in range(REPLICAS):
        alerts += [ticket(name, number) for name in ("VllmQueueBacklog", "VllmCapacityWaiting", "VllmKvCachePressure")]
    received = sent(program, tmp_path, alerts)
    assert len(received.notifications("vllm-page")) == 1, shown(received)
    assert received.notifications("vllm-ticket") == [], shown(received)


@pytest.mark.parametrize("job", [OWN_JOB, DAEMONSET_JOB])
def test_a_gpu_of_the_only_replica_that_falls_off_the_bus_is_one_page_and_one_ticket(
    job: str, program: str, tmp_path: Path
) -> None:
    """The page says that the model has no replica left, the ticket which GPU is lost."""
    namespace = job.partition("/")[0]
    other = {"pod": "vllm-sidecar-gpu-x", "instance": "10.0.9.1:10190"} if job == DAEMONSET_JOB else {}
    gpu = {"job": job, "namespace": namespace, "gpu": "3", "uuid": "GPU-3", "model_name": "", "engine": "", **other}
    alerts = [
        ticket("VllmGpuXidCritical", 1, xid="79", **gpu),
        ticket("VllmGpuLost", 1, **gpu),
        ticket("VllmGpuRecoveryNeeded", 1, action="node_reboot", **gpu),
        ticket("VllmGpuMissing", 1, **{**gpu, "gpu": "", "uuid": ""}),
        ticket("VllmGpuHang", 1, power="low", model_name="", engine=""),
        ticket("VllmEngineStalled", 1),
        page("VllmReplicasUnavailable"),
    ]
    received = sent(program, tmp_path, alerts)
    assert [each.names for each in received.notifications("vllm-page")] == [{"VllmReplicasUnavailable"}], shown(
        received
    )
    assert [each.names for each in received.notifications("vllm-ticket")] == [{"VllmGpuLost"}], shown(received)


def test_a_node_with_eight_replicas_of_two_models_that_dies_is_one_page_a_model(program: str, tmp_path: Path) -> None:
    alerts = []
    for model, name in (("chat", "VllmReplicasUnavailable"), ("code", "VllmModelGone")):
        alerts += [page(name, model), page("VllmAvailabilitySloBurn", model, slo="availability", long_window="1h")]
        for number in range(4):
            alerts += [ticket(each, number, model, engine="") for each in ("VllmTargetDown", "VllmSidecarDown")]
    received = sent(program, tmp_path, alerts)
    assert sorted(each.group["model_name"] for each in received.notifications("vllm-page")) == ["chat", "code"]


def test_a_stalled_server_inhibits_tickets_of_itself_and_not_of_the_other_server_of_its_sidecar(
    program: str, tmp_path: Path
) -> None:
    alerts = [ticket("VllmEngineStalled", 1, target="a")]
    alerts += [ticket("VllmQueueBacklog", 1, target=target) for target in "ab"]
    received = sent(program, tmp_path, alerts)
    found = {each.group["alertname"]: each.alerts for each in received.notifications("vllm-ticket")}
    assert set(found) == {"VllmEngineStalled", "VllmQueueBacklog"}
    assert [alert["target"] for alert in found["VllmQueueBacklog"]] == ["b"]


def test_no_ticket_inhibits_a_page(program: str, tmp_path: Path) -> None:
    """A page about a model must come even if a ticket already names its cause."""
    causes = ("VllmEngineStalled", "VllmGpuLost", "VllmTargetDown", "VllmSidecarDown", "VllmKvCachePressure",
              "VllmCrashLoop", "VllmMetricsMissing", "VllmAsleepWithRequests")  # fmt: skip
    alerts = [ticket(name, 1) for name in causes] + [page("VllmReplicasUnavailable"), page("VllmErrorRatioHigh")]
    received = sent(program, tmp_path, alerts)
    (only,) = received.notifications("vllm-page")
    assert only.names == {"VllmReplicasUnavailable", "VllmErrorRatioHigh"}
