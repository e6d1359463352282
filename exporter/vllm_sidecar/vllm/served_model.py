"""Stage 4: the model that a server serves, by the name that its metrics have, also while they cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.catalog.types import Scope

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings
    from vllm_sidecar.vllm.probes.identity import ServerIdentity

FLAGS = ("served_model_name", "model")
"""Flags that name it, the better one first: without a name of its own a model is called as it was asked for."""


class ServedModel:
    """Remembers the model of one server over its outages and restarts."""

    def __init__(self) -> None:
        self._name = ""

    def observe(self, readings: Readings) -> None:
        """Take what the series of the engines name: the first of several models, and the same one from then on."""
        names = [group.labels[0] for group in readings.groups if group.scope is Scope.ENGINE]
        if names and self._name not in names:
            self._name = names[0]

    def name(self, identity: ServerIdentity) -> str:
        """Return the model's name; before the first answer what flags and probes say, and "" where they do not."""
        return self._name or identity.served_model or _asked_for(identity)


def _asked_for(identity: ServerIdentity) -> str:
    return next((str(identity.flags[flag]) for flag in FLAGS if identity.flags.get(flag)), "")
