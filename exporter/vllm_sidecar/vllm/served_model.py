"""The names of the served models as in their metrics, also while they cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.vllm.probes.identity import ServerIdentity

FLAGS = ("served_model_name", "model")
"""Flags with the name, the preferred one first: without a served name vLLM uses the name in `model`."""


class ServedModel:
    """Remembers the models of one server across its outages and restarts."""

    def __init__(self) -> None:
        self._name = ""
        self.all: tuple[str, ...] = ()
        """Every model with an engine at the last successful poll with one; empty before that."""

    def observe(self, readings: Readings) -> None:
        """Read the model from the series of the engines: the first of several models, and then the same one."""
        names = tuple(dict.fromkeys(group.labels[0] for group in readings.groups if group.scope is Scope.ENGINE))
        if names:
            self.all = names
            self._name = self._name if self._name in names else names[0]

    def name(self, identity: ServerIdentity) -> str:
        """Return the model's name; before the first poll the name from flags and probes, or "" without one."""
        return self._name or identity.served_model or _requested(identity)


def _requested(identity: ServerIdentity) -> str:
    return next((str(identity.flags[flag]) for flag in FLAGS if identity.flags.get(flag)), "")
