"""The command `vllm-sidecar generate`: what it lists, and its exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.cli import main
from vllm_sidecar.generate.outputs import Changes, WriteOptions

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Path, bool]]]:
    """Returns a function that makes `vllm_sidecar.generate` answer with some paths, and gives its calls back."""

    def install(*paths: str) -> list[tuple[Path, bool]]:
        calls: list[tuple[Path, bool]] = []

        def generate(root: Path, how: WriteOptions) -> Changes:
            calls.append((root, how.check))
            return Changes(list(paths), [])

        module = ModuleType("vllm_sidecar.generate.outputs")
        module.main = generate
        module.WriteOptions = WriteOptions
        monkeypatch.setitem(sys.modules, "vllm_sidecar.generate.outputs", module)
        return calls

    return install


def test_generate_writes_below_the_root_and_lists_what_it_wrote(
    generator: Callable[..., list[tuple[Path, bool]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = generator("rules/a.yml", "rules/b.yml")

    assert main(["generate", "--root", str(tmp_path)]) == 0
    assert calls == [(tmp_path, False)]
    assert capsys.readouterr().out.splitlines() == ["rules/a.yml: written", "rules/b.yml: written"]


def test_generate_check_fails_and_lists_what_differs(
    generator: Callable[..., list[tuple[Path, bool]]], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = generator("rules/a.yml")

    assert main(["generate", "--check"]) == 1
    assert calls == [(Path(), True)]
    captured = capsys.readouterr()
    assert captured.out == "rules/a.yml: not as generated\n"
    assert captured.err == "vllm-sidecar: run 'vllm-sidecar generate' and commit what it writes\n"


@pytest.mark.parametrize("arguments", [["generate"], ["generate", "--check"]])
def test_generate_says_when_nothing_differs(
    arguments: list[str], generator: Callable[..., list[tuple[Path, bool]]], capsys: pytest.CaptureFixture[str]
) -> None:
    generator()

    assert main(arguments) == 0
    assert capsys.readouterr().out == "generated files are up to date\n"


def test_generate_without_its_extra_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoJinja:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "vllm_sidecar.generate.outputs":
                raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2.environment")

    monkeypatch.delitem(sys.modules, "vllm_sidecar.generate.outputs", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoJinja(), *sys.meta_path])

    assert main(["generate"]) == 1
    assert capsys.readouterr().err == "vllm-sidecar: generate needs jinja2: pip install 'vllm-sidecar[generate]'\n"
