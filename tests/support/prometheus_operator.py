"""What the Prometheus operator makes of its objects: the files of Prometheus and of Alertmanager.

Of each kind only what the chart and kube-prometheus-stack use; a field that is not known here fails instead of being
left out.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubernetes_api import KubernetesApi

Object = dict[str, Any]
SECRETS = {"routingKey": "routing_key", "apiURL": "api_url", "urlSecret": "url"}
"""Fields of receivers that name a key of a Secret -> those of Alertmanager with its value."""
EVALUATION_INTERVAL = "30s"
"""The operator's default."""


def selected(api: KubernetesApi, kind: str, owner: Object, selector: str) -> list[Object]:
    """Return the objects of a kind that a selector of a Prometheus or Alertmanager selects."""
    labels = owner["spec"][selector].get("matchLabels", {})
    return [each for each in api.of_kind(kind).values() if labels.items() <= each["metadata"]["labels"].items()]


def prometheus_files(api: KubernetesApi, url: str, alertmanager: str, folder: object) -> dict[str, object]:
    """Return the configuration and the rule files of the only Prometheus by their names in a folder."""
    (owner,) = api.of_kind("Prometheus").values()
    rules = {
        f"rules/{each['metadata']['namespace']}-{each['metadata']['name']}.yaml": each["spec"]
        for each in selected(api, "PrometheusRule", owner, "ruleSelector")
    }
    monitors = selected(api, "PodMonitor", owner, "podMonitorSelector")
    config = {
        "global": {"scrape_interval": "30s", "evaluation_interval": EVALUATION_INTERVAL},
        "rule_files": [f"{folder}/rules/*.yaml"],
        "scrape_configs": [scrape_config(each, url) for each in monitors],
        "alerting": {"alertmanagers": [{"api_version": "v2", "static_configs": [{"targets": [alertmanager]}]}]},
    }
    return {"prometheus.yml": config, **rules}


def scrape_config(monitor: Object, url: str) -> Object:
    """Return the job of a PodMonitor with one endpoint, for all namespaces of an API server."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    name = f"{monitor['metadata'].get('namespace', 'default')}/{monitor['metadata']['name']}"
    kept = [
        {"action": "keep", "source_labels": [f"__meta_kubernetes_pod_label_{_label(label)}"], "regex": value}
        for label, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    port = {"action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": endpoint["port"]}
    copied = {"namespace": "namespace", "container": "pod_container_name", "pod": "pod_name"}
    labels = [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label} for label, source in copied.items()
    ]
    job = [{"target_label": "job", "replacement": name}, {"target_label": "endpoint", "replacement": endpoint["port"]}]
    own = [{_snake(key): value for key, value in rule.items()} for rule in endpoint["relabelings"]]
    return {
        "job_name": f"podMonitor/{name}/0",
        "scrape_interval": endpoint["interval"],
        "kubernetes_sd_configs": [{"role": "pod", "api_server": url}],
        "relabel_configs": [*kept, port, *labels, *job, *own],
    }


def alertmanager_config(api: KubernetesApi, settings: Mapping[str, object]) -> Object:
    """Return the configuration of the only Alertmanager, with global settings of its administrator."""
    (owner,) = api.of_kind("Alertmanager").values()
    anywhere = owner["spec"].get("alertmanagerConfigMatcherStrategy", {}).get("type") == "None"
    routes, inhibitions, receivers = [], [], [{"name": "null"}]
    for each in selected(api, "AlertmanagerConfig", owner, "alertmanagerConfigSelector"):
        space = each["metadata"]["namespace"]
        only = [] if anywhere else [f'namespace="{space}"']
        prefix = f"{space}/{each['metadata']['name']}/"
        route = _route(each["spec"]["route"], prefix)
        routes.append({**route, "matchers": [*only, *route["matchers"]], "continue": True})
        inhibitions += [_inhibition(rule, only) for rule in each["spec"]["inhibitRules"]]
        receivers += [_receiver(one, prefix, api) for one in each["spec"]["receivers"]]
    return {
        "global": dict(settings),
        "route": {"receiver": "null", "routes": routes},
        "inhibit_rules": inhibitions,
        "receivers": receivers,
    }


def _route(route: Object, prefix: str) -> Object:
    own = {_snake(key): value for key, value in route.items() if key not in {"matchers", "routes", "receiver"}}
    return {
        **own,
        "receiver": prefix + route["receiver"],
        "matchers": list(_matchers(route["matchers"])),
        "routes": [_route(each, prefix) for each in route.get("routes", ())],
    }


def _inhibition(rule: Object, only: list[str]) -> Object:
    return {
        "source_matchers": [*only, *_matchers(rule["sourceMatch"])],
        "target_matchers": [*only, *_matchers(rule["targetMatch"])],
        "equal": rule["equal"],
    }


def _matchers(given: list[Object]) -> Iterator[str]:
    for each in given:
        yield f'{each["name"]}{each["matchType"]}"{each["value"]}"'


def _receiver(receiver: Object, prefix: str, api: KubernetesApi) -> Object:
    integrations = {_snake(key): value for key, value in receiver.items() if key != "name"}
    return {
        "name": prefix + receiver["name"],
        **{key: [_integration(each, api) for each in value] for key, value in integrations.items()},
    }


def _integration(given: Object, api: KubernetesApi) -> Object:
    found: Object = {}
    for key, value in given.items():
        if key in SECRETS:
            secret = api.of_kind("Secret")[value["name"]]["data"]
            found[SECRETS[key]] = base64.b64decode(secret[value["key"]]).decode()
        elif key == "details":
            found[key] = {each["key"]: each["value"] for each in value}
        elif key == "pagerDutyLinkConfigs":
            found["links"] = [{"href": each["href"], "text": each["alt"]} for each in value]
        else:
            found[_snake(key)] = value
    return found


def _label(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)
