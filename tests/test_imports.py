"""Data flows one way: no stage imports a later one, and the running program loads nothing of the generator."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "exporter" / "vllm_sidecar"
FORBIDDEN = {
    "model": ("exposition", "catalog", "derive", "window", "scrape", "pipeline"),
    "exposition": ("catalog", "derive", "window", "normalise", "plan", "scrape", "snapshot", "pipeline"),
    "scrape": ("exposition", "catalog", "derive", "window", "pipeline"),
    "introspect": ("exposition", "catalog", "derive", "window", "pipeline"),
    "window": ("catalog", "derive", "normalise", "plan", "snapshot", "export", "pipeline"),
    "distribution": ("catalog", "derive", "window", "snapshot"),
    "gpu": ("derive", "window", "normalise", "snapshot", "export", "pipeline", "server", "app"),
    "beside": ("snapshot", "export", "pipeline", "server", "app"),
    "tally": ("config", "catalog", "snapshot", "export", "pipeline", "server", "app"),
    "derive": ("gpu", "catalog", "normalise", "plan", "snapshot", "export", "pipeline", "config", "scrape"),
    "catalog": ("normalise", "plan", "snapshot", "export", "pipeline", "server"),
    "normalise": ("window", "derive", "snapshot", "export", "pipeline"),
    "snapshot": ("export", "pipeline", "server", "app"),
    "export": ("pipeline", "server", "app"),
    "pipeline": ("export", "server", "app"),
}


def imported(name: str) -> set[str]:
    """Return the modules of the package that a module or subpackage imports while it runs."""
    path = PACKAGE / name
    found = set()
    for file in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        tree = ast.parse(file.read_text())
        typing_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in typing_only and node.module:
                found.add(node.module.removeprefix("vllm_sidecar."))
    return {module.partition(".")[0] for module in found}


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_a_stage_imports_no_later_stage(name: str) -> None:
    assert imported(name) & set(FORBIDDEN[name]) == set()


def test_serving_loads_no_part_of_the_generator() -> None:
    code = (
        "import sys, vllm_sidecar.app; print({'jinja2', 'promql_parser', 'vllm_sidecar.generate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_only_one_file_knows_vllms_names() -> None:
    knowing = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("vllm:")
    }
    assert knowing == {"catalog/upstream.py"}
