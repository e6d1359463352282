"""The dialects of the simulator: names and labels of the same meters in some release and front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.upstream import PREFIXES
from vllm_sidecar.simulator.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_sidecar.simulator.families import Release, SimulatedFamily

TEXT = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class SimulatedDialect:
    """One form of vLLM's metrics."""

    release: str
    """The version in `/version`."""
    engine: str = "v1"
    """`v0` has no label for the engine."""
    prefix: str = PREFIXES[0]
    rust: bool = False
    ray: bool = False

    @property
    def families(self) -> tuple[SimulatedFamily, ...]:
        """The families of this release."""
        return tuple(family for family in FAMILIES if family.of(self.key, self.engine, rust=self.rust))

    @property
    def key(self) -> Release:
        """The release as numbers."""
        return tuple(map(int, self.release.split(".")))

    @property
    def content_type(self) -> str:
        """Content type of `/metrics`."""
        return OPENMETRICS if self.rust else TEXT

    @property
    def own_process(self) -> bool:
        """Whether python_*, process_* and `_created` exist: not in v0's multiprocess mode, Rust or Ray."""
        return self.engine == "v1" and not self.rust and not self.ray


DIALECTS: Mapping[str, SimulatedDialect] = {
    "v0": SimulatedDialect("0.8.2", engine="v0"),
    "0.9": SimulatedDialect("0.9.2"),
    "0.11": SimulatedDialect("0.11.0"),
    "0.33": SimulatedDialect("0.33.0"),
    "rust": SimulatedDialect("0.33.0", rust=True),
    "ray": SimulatedDialect("0.33.0", prefix=PREFIXES[4], ray=True),
}
