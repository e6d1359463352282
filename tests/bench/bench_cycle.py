"""CPU of one cycle of the sidecar beside prometheus_client's parse of the same bytes, in the same run.

A poll takes bytes to windows; a scrape takes windows to bytes, at most once per poll. Prometheus scrapes each 5 to
60 s while the sidecar polls each second, so both are shown, and what they add up to per poll. All figures are medians
over the recorded bodies.
"""

from __future__ import annotations

import time
from statistics import median

from bodies import recorded, with_engines
from prometheus_client.parser import text_string_to_metric_families

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.derive import latency
from vllm_sidecar.derive.inputs import DeriveSettings
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.health import Health
from vllm_sidecar.series.store import WindowStore
from vllm_sidecar.serve.metrics import Exporter
from vllm_sidecar.serve.snapshot import Snapshot, Snapshotter
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.identity import ServerIdentity

WARM_UP = 10


class Cycle:
    """The stages of one target without its socket."""

    name = ""
    labels = ()
    last_success_age = 0.0

    def __init__(self) -> None:
        self._parser, self._normalizer = DifferentialParser(), Normalizer()
        self._windows, self._snapshotter = WindowStore(60.0, 300.0), Snapshotter("", (), DeriveSettings())
        self.health = Health("vllm").succeeded(last_success=0.0, seconds=0.01)
        self._exporter = Exporter(60.0)
        self._exporter.set_sources([self], 60.0)
        self._at = 0.0

    def poll(self, body: bytes) -> None:
        self._at += 1.0
        self._readings = self._normalizer.normalize(self._parser.parse(body))
        self._windows.append(self._at, self._readings)
        self._exporter.changed()

    def snapshot(self) -> Snapshot:
        return self._snapshotter.take(self._readings, self._windows, ServerIdentity(), self.health)

    def scrape(self) -> bytes:
        for window in self._windows.of(Scope.ENGINE).values():
            latency.prepare(window, DeriveSettings().min_observations)
        return self._exporter.render(openmetrics=True)


def measured(bodies: list[bytes]) -> tuple[float, float, float]:
    """Return medians in seconds: a poll, a scrape, and prometheus_client's parse, interleaved."""
    cycle = Cycle()
    polls, scrapes, peers = [], [], []
    for number, body in enumerate(bodies):
        began = time.process_time()
        cycle.poll(body)
        polled = time.process_time()
        cycle.scrape()
        scraped = time.process_time()
        if number % 10 == 0:
            text = body.decode()
            start = time.process_time()
            for _ in text_string_to_metric_families(text):
                pass
            peers.append(time.process_time() - start)
        polls.append(polled - began)
        scrapes.append(scraped - polled)
    return median(polls[WARM_UP:]), median(scrapes[WARM_UP:]), median(peers[1:])


def main() -> None:
    bodies = list(recorded())
    print(f"{len(bodies)} bodies of a real vLLM 0.32, {len(bodies[0])} bytes each; CPU milliseconds, medians")
    print(f"{'':26}{'poll':>9}{'scrape':>9}{'both':>9}{'peer':>9}   peer is n times dearer than")
    print(f"{'':26}{'':>9}{'':>9}{'':>9}{'parse':>9}{'poll':>9}{'both':>9}{'scraped each 5 s':>18}{'15 s':>8}")
    cases = [("1 engine, 3 requests/s", bodies), ("1 engine, idle", bodies[-1:] * len(bodies))]
    cases += [(f"{count} engines, all busy", [with_engines(body, count) for body in bodies[:40]]) for count in (8, 64)]
    for name, case in cases:
        poll, scrape, peer = measured(case)
        ratios = [peer / (poll + scrape * share) for share in (0.0, 1.0, 1 / 5, 1 / 15)]
        figures = "".join(f"{1e3 * value:9.3f}" for value in (poll, scrape, poll + scrape, peer))
        print(f"{name:26}{figures}{ratios[0]:9.1f}{ratios[1]:9.1f}{ratios[2]:18.1f}{ratios[3]:8.1f}")


if __name__ == "__main__":
    main()
