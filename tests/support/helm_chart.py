"""Renders the Helm chart of this checkout with its own values of CI."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import kubernetes_tools
import pytest
from places import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CHART = ROOT / "deploy" / "helm" / "vllm-sidecar"
VALUES: dict[str, Any] = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").iterdir())}
QUICK = ("default", "all")
RENDERED = [*QUICK, *(pytest.param(name, marks=pytest.mark.e2e) for name in VALUES if name not in QUICK)]


def helm(*arguments: str | Path) -> str:
    done = kubernetes_tools.run("helm", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def rendered(name: str) -> list[dict[str, Any]]:
    """Render the chart with the values of a file in ci/, or with its defaults."""
    values = ["--values", VALUES[name]] if name in VALUES else []
    return kubernetes_tools.objects(helm("template", "vllm-sidecar", CHART, "--namespace", "monitoring", *values))


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]
