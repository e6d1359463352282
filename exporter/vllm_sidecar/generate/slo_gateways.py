"""Availability as a gateway counts it: the requests of clients, and those that failed, also while no server answers.

Names and labels are those of the gateways' own documentation:

- Envoy: `upstream_rq_xx` of a cluster counts what clients got, its own 503 for a cluster without hosts included
  (https://www.envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats).
- Istio: `istio_requests_total` as reported by its source, because a destination that is gone reports nothing; code 0
  is a client that left (https://istio.io/latest/docs/reference/config/metrics/).
- LiteLLM: `litellm_proxy_total_requests_metric` and `litellm_proxy_failed_requests_metric`; a router without a
  deployment has no status (https://docs.litellm.ai/docs/proxy/prometheus).
- Gateway API inference extension: requests of the endpoint picker are counted when they are scheduled, errors in any
  case. Its names were `inference_model_*` before 1.0, and are `llm_d_epp_*` in llm-d. Any status but 200 of a server is
  an error, so HTTP 4xx of vLLM are too
  (https://gateway-api-inference-extension.sigs.k8s.io/guides/metrics-and-observability/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_sidecar.generate import promql
from vllm_sidecar.generate.expressions import expression, joined, quoted
from vllm_sidecar.generate.slo_observations import BY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.generate.settings.gateway import GatewaySettings
    from vllm_sidecar.generate.settings.late_errors import Mistake
    from vllm_sidecar.generate.settings.thresholds import Thresholds
    from vllm_sidecar.generate.slo_variants import Variant

CUSTOM = "custom"
NEUTRAL = "up"
"""Replaces an expression of the user when the rules are checked against the catalog."""
_PLACES = ("cluster", "namespace", "job")
_SERVICE = "served_as"
"""A temporary label in the expression: the gateway's own may be missing, or may be the name of another one."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter of a gateway with its matchers."""

    name: str
    matchers: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a gateway counts. `service` has the labels with the name of the service; the last that is set is used.

    Each of `requests` and `failures` lists counters that are added up; the outer tuples are versions of the gateway.
    """

    service: tuple[str, ...]
    requests: tuple[tuple[Counter, ...], ...]
    failures: tuple[tuple[Counter, ...], ...]
    namespace: str = ""
    """The label with the namespace of the service, if it is not that of the gateway."""
    named_alike: bool = False
    """Services have the names of vLLM's models."""


_EPP = ("inference_objective", "llm_d_epp", "inference_model")
RECIPES: dict[str, Recipe] = {
    "envoy": Recipe(
        service=("envoy_cluster_name",),
        requests=((Counter("envoy_cluster_upstream_rq_xx"),),),
        failures=((Counter("envoy_cluster_upstream_rq_xx", 'envoy_response_code_class="5"'),),),
    ),
    "istio": Recipe(
        service=("destination_service_name",),
        requests=((Counter("istio_requests_total", 'reporter="source",response_code!="0"'),),),
        failures=((Counter("istio_requests_total", 'reporter="source",response_code=~"5.."'),),),
        namespace="destination_service_namespace",
    ),
    "litellm": Recipe(
        service=("requested_model",),
        requests=((Counter("litellm_proxy_total_requests_metric_total"),),),
        # All but HTTP 4xx, of which 408 is the time that LiteLLM waits for the server.
        failures=((Counter("litellm_proxy_failed_requests_metric_total", 'exception_status!~"40[0-79]|4[1-9]."'),),),
        named_alike=True,
    ),
    "inference-extension": Recipe(
        service=("model_name", "target_model_name"),
        requests=tuple(
            (
                Counter(f"{name}_request_total"),
                Counter(f"{name}_request_error_total", 'error_code!~"BadRequest|ModelServerError"'),
            )
            for name in _EPP
        ),
        failures=tuple((Counter(f"{name}_request_error_total", 'error_code!="BadRequest"'),) for name in _EPP),
        named_alike=True,
    ),
}
METRICS = frozenset(
    counter.name
    for recipe in RECIPES.values()
    for counters in (*recipe.requests, *recipe.failures)
    for counter in counters
)
"""Names of all gateways' metrics."""


def mistakes(thresholds: Thresholds, variants: list[Variant]) -> Iterator[Mistake]:
    """Find settings that prevent counting availability by the gateway, for models that use it."""
    gateway = thresholds.slos.gateway
    if gateway is None:
        models = next(variant.models for variant in variants)
        own = getattr(thresholds.slos, variants[0].settings.slo.name).source != "gateway" and models
        place = ("models", models[0]) if own else ()
        yield (
            (*place, "slos", "availability", "source"),
            "gateway needs slos.gateway with the kind of the gateway and its names of the services",
        )
        return
    where = ("slos", "gateway")
    given = {"requests": gateway.requests, "failures": gateway.failures}
    if gateway.kind != CUSTOM:
        for key in (key for key, text in given.items() if text):
            yield (*where, key), f"is only for kind: {CUSTOM}; {gateway.kind} has expressions of its own"
        if not gateway.services and not RECIPES[gateway.kind].named_alike:
            yield (
                (*where, "services"),
                f"must name the services of {gateway.kind}, such as {{my-model: {_EXAMPLES[gateway.kind]}}}",
            )
        return
    for key in ("services", "selector"):
        if getattr(gateway, key):
            yield (*where, key), f"is not for kind: {CUSTOM}, whose expressions contain it"
    for key, text in given.items():
        problem = _problem(text)
        if problem:
            yield (*where, key), f"must be an expression of PromQL with the label model_name ({problem})"


_EXAMPLES = {"envoy": '"httproute/inference/my-route/.*"', "istio": "my-service"}


def without_expressions(thresholds: Thresholds) -> Thresholds:
    """Return settings whose expressions of the user are neutral: lint has the catalog's metrics, not the user's."""
    gateway = thresholds.slos.gateway
    if gateway is None or gateway.kind != CUSTOM:
        return thresholds
    neutral = gateway.model_copy(update={"requests": NEUTRAL, "failures": NEUTRAL})
    return thresholds.model_copy(update={"slos": thresholds.slos.model_copy(update={"gateway": neutral})})


def _problem(text: str) -> str:
    """Return what is wrong with an expression of the user, alone and within another one; empty if nothing is."""
    if not text.strip():
        return "it is empty"
    try:
        promql.parse(text)
        promql.parse(f"sum by ({BY}) (({text}) >= 0)")
    except ValueError as error:
        return " ".join(str(error).split())
    return ""


def observed(thresholds: Thresholds, gateway: GatewaySettings, group: list[Variant]) -> tuple[str, str]:
    """Return the rates of failed and of all requests per model, as PromQL: for some models, or all but others."""
    failed, every = (_rate(gateway, thresholds, what) for what in ("failures", "requests"))
    chosen = _chosen(group)
    failed, every = f"{failed}{chosen}", f"{every}{chosen}"
    return f"{failed} or 0 * ({every})", every


def _rate(gateway: GatewaySettings, thresholds: Thresholds, what: str) -> str:
    """Write a rate with the labels of the other records. Texts of the user are inserted last."""
    if gateway.kind == CUSTOM:
        summed = _summed(f"({getattr(gateway, what)}) >= 0", "model_name", gateway, thresholds)
        return _labeled(summed, gateway, thresholds)
    recipe = RECIPES[gateway.kind]
    versions = [
        _named(_summed(" or ".join(_series(recipe, counters, gateway, thresholds)), _SERVICE, gateway, thresholds))
        for counters in getattr(recipe, what)
    ]
    return _labeled(" or ".join(versions), gateway, thresholds)


def _series(
    recipe: Recipe, counters: tuple[Counter, ...], gateway: GatewaySettings, thresholds: Thresholds
) -> Iterator[str]:
    """Write the rates of counters, with the model's name, or the service's, in a label of its own."""
    minutes = expression("[5m]", {}, thresholds)
    for counter in counters:
        for model, pattern in (gateway.services or {"": ""}).items():
            service = f"{recipe.service[-1]}=~{quoted(pattern)}" if model else ""
            matchers = joined(service, counter.matchers, gateway.selector)
            rate = f"rate({counter.name}{{{matchers}}}{minutes}) >= 0"
            if model:
                rate = _relabeled(rate, _SERVICE, model)
            else:
                for label in recipe.service:
                    rate = _copied(rate, _SERVICE, label)
            yield _copied(rate, "namespace", recipe.namespace) if recipe.namespace else rate


def _summed(expr: str, also: str, gateway: GatewaySettings, thresholds: Thresholds) -> str:
    """Add up by the labels of a place that the user does not set, and one more."""
    places = [_place(label, thresholds) for label in _PLACES if label not in gateway.labels]
    return f"sum by ({', '.join([*places, also])}) ({expr})"


def _named(expr: str) -> str:
    return f"sum without ({_SERVICE}) ({_copied(expr, 'model_name', _SERVICE)})"


def _labeled(expr: str, gateway: GatewaySettings, thresholds: Thresholds) -> str:
    for label, value in gateway.labels.items():
        expr = _relabeled(expr, _place(label, thresholds), value)
    return expr if gateway.labels else f"({expr})"


def _place(label: str, thresholds: Thresholds) -> str:
    return thresholds.cluster_label if label == "cluster" else label


def _copied(expr: str, to: str, label: str) -> str:
    """Copy a label where it is set."""
    return f'label_replace({expr}, "{to}", "$1", "{label}", "(.+)")'


def _relabeled(expr: str, to: str, value: str) -> str:
    """Set a label to a text of the user."""
    return f'label_replace({expr}, "{to}", {quoted(value.replace("$", "$$"))}, "", "")'


def _chosen(group: list[Variant]) -> str:
    """Restrict a result to some models, or to all but some, by name: the expression may create its own labels."""
    models = [model for variant in group for model in variant.models]
    general = next((variant for variant in group if not variant.models), None)
    others = [model for model in general.apart if model not in models] if general else []
    names = others if general else models
    if not names:
        return ""
    listed = " or ".join(_relabeled("vector(1)", "model_name", name) for name in names)
    return f" {'unless' if general else 'and'} on (model_name) ({listed})"
