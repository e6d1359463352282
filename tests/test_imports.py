"""Stages that stay apart; the layers themselves are contracts of import-linter in pyproject.toml."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest
from places import EXPORTER, TESTS

pytestmark = pytest.mark.io

PACKAGE = EXPORTER / "vllm_sidecar"


def loaded(module: str) -> set[str]:
    """Return the modules that importing one module loads."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=EXPORTER, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_serving_loads_no_part_of_the_generator() -> None:
    assert {"jinja2", "promql_parser", "vllm_sidecar.generate.outputs"} & loaded("vllm_sidecar.serve.app") == set()


def test_neither_the_command_line_nor_the_generator_loads_numpy_or_aiohttp() -> None:
    for module in ("vllm_sidecar.cli", "vllm_sidecar.config", "vllm_sidecar.catalog", "vllm_sidecar.generate.outputs"):
        assert {"numpy", "aiohttp"} & loaded(module) == set(), module


def test_help_loads_not_even_the_schema_of_the_configuration() -> None:
    assert "pydantic" not in loaded("vllm_sidecar.cli")


def test_only_one_file_knows_vllms_names() -> None:
    knowing = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("vllm:")
    }
    assert knowing == {"catalog/upstream.py"}


def test_every_benchmark_finds_what_it_imports() -> None:
    code = (
        "import runpy, sys\n"
        "for file in sys.argv[1:]:\n"
        "    sys.path.insert(0, file.rpartition('/')[0])\n"
        "    runpy.run_path(file, run_name='imported')\n"
    )
    scripts = sorted(map(str, (TESTS / "bench").glob("bench_*.py")))
    environment = {"PYTHONPATH": str(EXPORTER), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, *scripts], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
