"""An objective with the settings of some models: the input of the rules of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.generate.expressions import model_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vllm_sidecar.catalog.objectives import CountedFrom, Slo
    from vllm_sidecar.generate.settings.batch_hours import Hours


@dataclass(frozen=True, slots=True)
class ResolvedObjective:
    """Resolved settings of one objective, for one model with settings of its own or for all others."""

    slo: Slo
    enabled: bool
    objective: float
    source: CountedFrom
    threshold: float | None
    """Seconds; None for availability."""
    least: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    batch_hours: tuple[Hours, ...] = ()
    """Hours in which it counts nothing; only for latencies."""

    @property
    def budget(self) -> float:
        """Share of observations that may be bad."""
        return 1.0 - self.objective


@dataclass(frozen=True, slots=True)
class Variant:
    """A resolved objective and the models that it is for: some that share settings, or all others."""

    settings: ResolvedObjective
    models: tuple[str, ...] = ()
    """Empty for all models but those `apart`."""
    apart: tuple[str, ...] = ()

    @property
    def matcher(self) -> str:
        """The matcher of their names."""
        return matcher_of([self])


def matcher_of(variants: Sequence[Variant]) -> str:
    """Return the matcher of the models of some variants of one objective."""
    names = [model for variant in variants for model in variant.models]
    for variant in variants:
        if not variant.models:
            return model_matcher((), tuple(model for model in variant.apart if model not in names))
    return model_matcher(names)


def sharing(variants: Iterable[Variant], key: Callable[[ResolvedObjective], object]) -> list[list[Variant]]:
    """Group variants by what they share, in order."""
    found: list[tuple[object, list[Variant]]] = []
    for variant in variants:
        shared = key(variant.settings)
        group = next((group for other, group in found if other == shared), None)
        if group is None:
            found.append((shared, [variant]))
        else:
            group.append(variant)
    return [group for _, group in found]
