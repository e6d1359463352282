"""Texts that contain labels of a discovered server in braces, such as `{__meta_kubernetes_pod_name}`."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from vllm_sidecar.config.values import not_allowed

_LABEL = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)\}", re.ASCII)


def labels_in(text: str) -> set[str]:
    """Return the names of the labels that a text contains."""
    return set(_LABEL.findall(text))


def fill(text: str, labels: Mapping[str, str]) -> str:
    """Replace each label by its value; one that is missing is an empty text, as in Prometheus."""
    return _LABEL.sub(lambda found: labels.get(found[1], ""), text)


def _label_text(value: str) -> str:
    rest = _LABEL.sub("", value)
    if "{" in rest or "}" in rest or not value.isprintable():
        raise not_allowed("text on one line, with names of labels in braces, such as {__address__}")
    return value


LabelText = Annotated[str, AfterValidator(_label_text)]
