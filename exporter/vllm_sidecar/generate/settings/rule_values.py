"""Kinds of texts in the thresholds that become part of a rule: selectors, patterns, labels, templates, names.

Prometheus refuses all rules of a file with one that it does not accept, so only texts are accepted here that every
reader of the rules accepts. Each check raises `not_allowed(...)`, as those of `config.values` do.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator

from vllm_sidecar.config.values import TAKEN_LABELS, Text, as_frozen, label_name, not_allowed
from vllm_sidecar.generate.settings import alert_template, re2

_MATCHER = r'(?P<label>[a-zA-Z_][a-zA-Z0-9_]*)\s*(?P<operator>=~|!~|!=|=)\s*"(?P<value>(?:[^"\\\n]|\\.)*)"'
_MATCHERS = re.compile(rf"{_MATCHER}\s*(?:,\s*|$)", re.ASCII)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_OURS = frozenset(("alertname", "severity", "settings", "slo", "long_window", "short_window", "pack"))
_NOT_SELECTED = ("__name__", "le", "quantile", "slo", "pack")
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(rf"(?:{_DNS_LABEL})?", re.ASCII)
_PACK = re.compile(rf"(?!slo(?:-|$))(?:{_DNS_LABEL})?", re.ASCII)
_KUBERNETES_VALUE = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_KUBERNETES_KEY = re.compile(rf"(?:{_DNS_LABEL}(?:\.{_DNS_LABEL})*/)?{_KUBERNETES_VALUE}", re.ASCII)
_URL = re.compile(r"(?:https?://[^\s/]+(?:/.*)?|[\w.][^:]*|)", re.ASCII)
_SEVERITY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
MOST_IN_KUBERNETES = 63
"""Characters of a label or a name in Kubernetes."""
MOST_PACK = 40


def _selector(value: str) -> str:
    allowed = 'label matchers as in PromQL, without braces, such as cluster="a",env=~"prod|canary"'
    text, at = value.strip(), 0
    while at < len(text):
        found = _MATCHERS.match(text, at)
        if found is None:
            raise not_allowed(allowed)
        at = found.end()
        _matcher(found["label"], found["operator"], found["value"])
    return text.rstrip(", \t\n")


def _matcher(label: str, operator: str, written: str) -> None:
    if label == "model_name":
        raise not_allowed("matchers of labels other than model_name; settings of a model go to models")
    if label in _NOT_SELECTED:
        raise not_allowed(f"matchers of labels other than {', '.join(_NOT_SELECTED)}")
    unknown = [found[0] for found in re.finditer(r"\\(.)", written) if found[1] not in _ESCAPES]
    if unknown:
        raise not_allowed(f"matchers without the escape {unknown[0]} (a backslash in PromQL is written twice)")
    if operator in ("=~", "!~"):
        _regular_expression(re.sub(r"\\(.)", lambda found: _ESCAPES[found[1]], written))
    _printable(written)


def _regular_expression(value: str) -> str:
    try:
        re2.check(value)
    except re2.Re2Error as error:
        raise not_allowed(f"a regular expression of Prometheus, which is RE2 ({error})") from None
    return _printable(value)


def _printable(value: str) -> str:
    """Refuse control characters, which YAML, JSON and the parsers of four programs do not all read the same."""
    if not value.isprintable():
        raise not_allowed("text without control characters, on one line")
    return value


def _severity(value: str) -> str:
    if not _SEVERITY.fullmatch(value):
        raise not_allowed("a name of letters, digits, - and _, such as critical")
    return value


def _cluster_label(value: str) -> str:
    if value in TAKEN_LABELS or value in _OURS:
        raise not_allowed("a label that neither the sidecar nor its scrape sets, such as k8s_cluster or region")
    return value


def _rule_label(value: str) -> str:
    if label_name(value) in _OURS:
        raise not_allowed(f"a label name other than {', '.join(sorted(_OURS))}, which the rules set")
    return value


def _template(value: str) -> str:
    """Check a text that Prometheus expands for each alert."""
    if not value.replace("\n", "").replace("\t", "").isprintable():
        raise not_allowed("text without control characters")
    try:
        alert_template.check(value)
    except alert_template.TemplateError as error:
        raise not_allowed(f"a template of Prometheus, such as {{{{ $labels.pod }}}} ({error})") from None
    return value


def _base_url(value: str) -> str:
    if not _URL.fullmatch(_printable(value)) or re.search(r"\s", value.replace("{{ ", "").replace(" }}", "")):
        raise not_allowed("an address with http:// or https://, a path, or nothing for no link")
    return _template(value).rstrip("/")


def _pack(value: str) -> str:
    if not _PACK.fullmatch(value) or len(value) > MOST_PACK:
        raise not_allowed(
            f"lowercase letters, digits and - between them, up to {MOST_PACK}, and not slo or beginning with slo-"
        )
    return value


def _namespace(value: str) -> str:
    if not _NAMESPACE.fullmatch(value) or len(value) > MOST_IN_KUBERNETES:
        raise not_allowed("a namespace of Kubernetes")
    return value


def _kubernetes_key(value: str) -> str:
    if not _KUBERNETES_KEY.fullmatch(value) or len(value.rpartition("/")[2]) > MOST_IN_KUBERNETES or len(value) > 253:
        raise not_allowed("a key of Kubernetes, such as release or app.kubernetes.io/part-of")
    return value


def _kubernetes_value(value: str) -> str:
    if len(value) > MOST_IN_KUBERNETES or not re.fullmatch(rf"(?:{_KUBERNETES_VALUE})?", value, re.ASCII):
        raise not_allowed(
            f"letters, digits, -, _ and ., beginning and ending with a letter or digit, up to {MOST_IN_KUBERNETES}"
        )
    return value


Printable = Annotated[str, AfterValidator(_printable)]
Template = Annotated[str, AfterValidator(_template)]
LabelName = Annotated[str, AfterValidator(label_name)]
Names = Annotated[
    Mapping[Annotated[str, AfterValidator(_rule_label)], Annotated[Text, AfterValidator(_template)]],
    AfterValidator(as_frozen),
]
Annotations = Annotated[Mapping[LabelName, Template], AfterValidator(as_frozen)]
KubernetesKey = Annotated[str, AfterValidator(_kubernetes_key)]
KubernetesLabels = Annotated[
    Mapping[KubernetesKey, Annotated[str, AfterValidator(_kubernetes_value)]], AfterValidator(as_frozen)
]
KubernetesAnnotations = Annotated[Mapping[KubernetesKey, Printable], AfterValidator(as_frozen)]
ClusterLabel = Annotated[LabelName, AfterValidator(_cluster_label)]
Selector = Annotated[str, AfterValidator(_selector)]
RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Pack = Annotated[str, AfterValidator(_pack)]
Namespace = Annotated[str, AfterValidator(_namespace)]
ModelName = Annotated[Text, AfterValidator(_printable)]
SeverityLabel = Annotated[str, AfterValidator(_severity)]
SeverityName = Literal["page", "ticket", "info", "critical", "warning"]
"""Critical and warning are common names of page and ticket."""
