"""A user's settings of the objectives -> the resolved settings of each objective and model, with all mistakes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm_sidecar.catalog.objectives import CAP, SLOS, CountedFrom, Slo
from vllm_sidecar.generate import slo_gateways
from vllm_sidecar.generate.bucket_bounds import BucketBounds, placed
from vllm_sidecar.generate.rules import alike
from vllm_sidecar.generate.settings.late_errors import LateError
from vllm_sidecar.generate.slo_variants import ResolvedObjective, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.generate.settings.late_errors import Mistake
    from vllm_sidecar.generate.settings.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class BurnWindow:
    """One pair of windows for one objective."""

    long: float
    short: float
    factor: float
    severity: str
    hold: float


@dataclass(frozen=True, slots=True)
class ResolvedObjectives:
    """Every objective that has any rules, with its variants, and notes for the user."""

    objectives: list[tuple[Slo, list[Variant]]]
    notes: tuple[str, ...]


def resolve_objectives(thresholds: Thresholds, bounds: BucketBounds | None = None) -> ResolvedObjectives:
    """Resolve the settings of each objective.

    Args:
        thresholds: The user's settings.
        bounds: Bucket bounds of live servers; None if no server was read.

    Raises:
        LateError: A threshold is not a bucket bound, a factor can never be reached, or a gateway is missing or
            wrong; with all such mistakes.
    """
    found: list[tuple[Slo, list[Variant]]] = []
    mistakes: list[Mistake] = []
    notes: list[str] = []
    known = replace(bounds or BucketBounds(), options=thresholds.slos.buckets)
    for slo in SLOS if thresholds.slos.enabled else ():
        every = _variants(slo, thresholds, known, mistakes, notes)
        variants = [variant for variant in every if variant.settings.enabled]
        if variants:
            found.append((slo, variants))
        for variant in variants:
            mistakes.extend(_unreachable(variant, thresholds))
        counted_there = [variant for variant in variants if variant.settings.source is CountedFrom.GATEWAY]
        if counted_there:
            mistakes.extend(slo_gateways.mistakes(thresholds, counted_there))
    if mistakes:
        raise LateError(mistakes)
    return ResolvedObjectives(found, tuple(dict.fromkeys(notes)))


def _variants(
    slo: Slo, thresholds: Thresholds, bounds: BucketBounds, mistakes: list[Mistake], notes: list[str]
) -> list[Variant]:
    """Return the objective for the models whose settings differ, and for all others."""

    def settled(model: str | None) -> ResolvedObjective:
        return _at_a_bound(_resolve(slo, thresholds, model), thresholds, bounds, model, mistakes, notes)

    general = settled(None)
    own = {model: settled(model) for model in thresholds.models}
    different = {model: settings for model, settings in own.items() if settings != general}
    found = [Variant(different[models[0]], tuple(models)) for models in alike(different)]
    return [*found, Variant(general, (), tuple(different))]


def _resolve(slo: Slo, thresholds: Thresholds, model: str | None) -> ResolvedObjective:
    """Return the first that is set of a model's own settings, the general ones, those of the section, the catalog's."""
    section = thresholds.slos
    own = thresholds.models[model] if model is not None else None
    given = [getattr(own.slos, slo.name)] if own else []
    given.append(getattr(section, slo.name))
    profile = (own.profile if own else None) or thresholds.profile

    def first(key: str, *otherwise: Any) -> Any:
        found = (getattr(each, key) for each in given)
        return next(value for value in (*found, *otherwise) if value is not None)

    written = [each.threshold[profile] for each in given if slo.histogram and profile in (each.threshold or ())]
    defaults = {kind.value: seconds for kind, seconds in slo.thresholds.items()}
    return ResolvedObjective(
        slo=slo,
        enabled=first("enabled", slo.enabled),
        objective=first("objective", slo.objective),
        source=CountedFrom(first("source", section.source, slo.source.value)),
        threshold=next(iter(written), defaults.get(profile)),
        least=first("observations", section.observations),
        labels={**thresholds.labels, **{k: v for each in reversed(given) for k, v in each.labels.items()}},
        annotations={
            **thresholds.annotations,
            **{k: v for each in reversed(given) for k, v in each.annotations.items()},
        },
        batch_hours=thresholds.hours_of(model) if slo.histogram else (),
    )


def _at_a_bound(
    settings: ResolvedObjective,
    thresholds: Thresholds,
    bounds: BucketBounds,
    model: str | None,
    mistakes: list[Mistake],
    notes: list[str],
) -> ResolvedObjective:
    """Put the threshold of a histogram at a bucket bound, or add a mistake if it is not at one."""
    slo = settings.slo
    histogram = slo.histogram
    if (
        histogram is None
        or settings.threshold is None
        or settings.source is CountedFrom.SIDECAR
        or not settings.enabled
    ):
        return settings
    own = getattr(thresholds.models[model].slos, slo.name).snap if model is not None else None
    general = getattr(thresholds.slos, slo.name).snap
    snap = next(value for value in (own, general, thresholds.slos.snap) if value is not None)
    place = placed(histogram, settings.threshold, bounds, model, snap=snap)
    everywhere = ("slos", slo.name, "threshold")
    steps = everywhere if model is None else ("models", model, *everywhere)
    # A mistake that a model inherits from the general settings is reported once, for those.
    if place.mistake and (everywhere, place.mistake) not in mistakes:
        mistakes.append((steps, place.mistake))
    if place.note and f"{'.'.join(everywhere)}: {place.note}" not in notes:
        notes.append(f"{'.'.join(steps)}: {place.note}")
    return replace(settings, threshold=place.threshold)


def burns_of(settings: ResolvedObjective, thresholds: Thresholds) -> list[BurnWindow]:
    """Return the windows of an objective. Default factors are lowered to what its budget allows, the user's are not.

    All observations bad is a burn of 1 / (1 - objective): 10 for an objective of 90 %, which is never above 14.4.
    """
    given = "burn" in thresholds.slos.model_fields_set
    most = 1.0 / settings.budget
    return [
        BurnWindow(
            burn.long,
            burn.short,
            burn.factor if given else min(burn.factor, float(f"{CAP * most:.3g}")),
            burn.severity,
            getattr(burn, "for"),
        )
        for burn in thresholds.slos.burn
    ]


def _unreachable(variant: Variant, thresholds: Thresholds) -> Iterator[Mistake]:
    settings = variant.settings
    most = 1.0 / settings.budget
    for number, burn in enumerate(burns_of(settings, thresholds)):
        if burn.factor >= most * (1.0 - 1e-9):
            yield (
                ("slos", "burn", str(number), "factor"),
                (
                    f"{burn.factor:g} can never be exceeded by {settings.slo.name}, whose "
                    f"objective of {settings.objective:g} allows a burn of {most:g} at most (all observations bad); "
                    f"allowed: a factor below {most:g}, or a higher objective"
                ),
            )
