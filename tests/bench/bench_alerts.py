"""From a fault to a page, with the real programs: alert x scenario, expected and seen, and the seconds between.

The rules run at a twentieth of their times (see tests/alert_run.py), so a second here stands for up to twenty; what the
sidecar itself needs, such as the time without progress that makes a stall, is shortened too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import alert_run

from vllm_sidecar.simulator.scenarios import SCENARIOS

AFTER = 30.0


def main() -> None:
    if alert_run.programs() is None:
        print("skipped: apt-get install prometheus prometheus-alertmanager")
        return
    with tempfile.TemporaryDirectory() as folder, alert_run.playing(list(SCENARIOS), Path(folder)) as played:
        while played.seconds() < alert_run.INCIDENT + AFTER:
            time.sleep(1.0)
    scale = alert_run.THRESHOLDS["time_scale"]
    print(f"rules at {scale} of their times; seconds after the fault; in time: before it ended")
    print(f"{'scenario':15} {'alert':32} {'expected':9} {'arrived as':11} {'seconds':>7}")
    for name, scenario in SCENARIOS.items():
        arrived = {
            alert: (receiver.removeprefix("vllm-"), seconds)
            for receiver in ("vllm-ticket", "vllm-page")
            for alert, seconds in played.first(receiver).get(name, {}).items()
            if seconds < alert_run.INCIDENT
        }
        for alert in sorted({*scenario.alerts, *arrived}, key=lambda each: arrived.get(each, ("", 1e9))[1]):
            receiver, seconds = arrived.get(alert, ("inhibited", float("nan")))
            promised = "yes" if alert in scenario.alerts else "no"
            print(f"{name:15} {alert:32} {promised:9} {receiver:11} {seconds:7.0f}")


if __name__ == "__main__":
    main()
