"""Cost of a push over OTLP: CPU time of its body and bytes, at 1 and 64 engines.

python tests/bench/bench_otlp.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "exporter")]

import captured  # noqa: E402 - the helpers of the tests are beside this folder
from growing import grown  # noqa: E402

from vllm_sidecar.catalog.types import Scope  # noqa: E402
from vllm_sidecar.config import Config  # noqa: E402
from vllm_sidecar.derive.inputs import DeriveSettings  # noqa: E402
from vllm_sidecar.exposition import DifferentialParser, labels_text  # noqa: E402
from vllm_sidecar.series.health import Health  # noqa: E402
from vllm_sidecar.series.store import WindowStore  # noqa: E402
from vllm_sidecar.serve.otlp.push import Source, _Maker  # noqa: E402
from vllm_sidecar.serve.snapshot import Snapshotter  # noqa: E402
from vllm_sidecar.vllm.normalize import Normalizer  # noqa: E402
from vllm_sidecar.vllm.probes.identity import ServerIdentity  # noqa: E402

PUSHES, POLLS = 5, 60


class Server:
    """One server under load, as the sidecar sees it."""

    def __init__(self, name: str) -> None:
        self.name, self.windows = name, WindowStore(60.0, 300.0)
        self._parser, self._normalizer = DifferentialParser(), Normalizer()
        self._labels = (("target", name),)
        self._snapshotter = Snapshotter(name, self._labels, DeriveSettings(5, 120.0, 100))

    def poll(self, at: int, body: bytes) -> None:
        self.readings = self._normalizer.normalize(self._parser.parse(body), "", float(at))
        self.windows.append(float(at), self.readings)

    def source(self) -> Source:
        health = Health("vllm", up=True)
        snapshot = self._snapshotter.take(self.readings, self.windows, ServerIdentity(), health)
        histories = {
            labels_text((*self._labels, *zip(group.scope.labels, group.labels, strict=True))): list(window.history())
            for group, window in self.windows.of(Scope.ENGINE).items()
        }
        return Source(self.name, snapshot.samples, histories, self.windows.now)


def measure(engines: int, histograms: str) -> str:
    settings = {"enabled": True, "histograms": histograms}
    maker = _Maker(Config.model_validate({"otlp": settings}), 0.0)
    servers = [Server(f"vllm-{number}") for number in range(engines)]
    text = captured.text()
    costs: list[float] = []
    for push in range(PUSHES):
        for poll in range(POLLS):
            at = push * POLLS + poll
            body = grown(text, at + 1).encode()
            for server in servers:
                server.poll(at, body)
        sources = [server.source() for server in servers]
        began = time.thread_time()
        made = maker.make(sources, 1e9 + at)
        costs.append(time.thread_time() - began)
        maker.streams.accepted(made.collected)
    points, cost = len(made.collected.sent), min(costs[1:])
    return f"| {engines} | {histograms} | {points:,} | {1000 * cost:.1f} ms | {len(made.content) / 1024:.1f} KiB |"


def main() -> None:
    print("| Engines | Histograms | Data points | CPU of a push | Bytes of a push (gzip) |")
    print("| --- | --- | --- | --- | --- |")
    for engines in (1, 64):
        for histograms in ("explicit", "exponential"):
            print(measure(engines, histograms))


if __name__ == "__main__":
    main()
