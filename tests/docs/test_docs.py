"""The documents: complete, and pointing at what exists."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, cast

import yaml
from places import ROOT

from vllm_sidecar import __version__, cli
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.config import Config, NamedTarget
from vllm_sidecar.generate import config_docs
from vllm_sidecar.serve.http import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from vllm_sidecar.serve.http import Running

README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "exporter" / "config.example.yaml").read_text()
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "dashboards" / "README.md", ROOT / "rules" / "README.md"]
)

QUESTIONS = ("README.md", "docs/metrics.md")
"""Documents with tables of questions, whose answers are names of metrics without prefix."""


def by_hand(path: str) -> str:
    """A document without its generated sections."""
    text = (ROOT / path).read_text()
    return re.sub(r"<!-- generated: .*?<!-- end generated -->", "", text, flags=re.DOTALL)


def keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from keys(inner)


def flags(parser: argparse.ArgumentParser, program: str = "vllm-sidecar") -> Iterator[str]:
    for action in parser._actions:
        yield from (option for option in action.option_strings if option not in ("-h", "--help"))
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{program} {name}"
                yield from flags(command, f"{program} {name}")


def test_every_key_of_the_configuration_is_in_the_example() -> None:
    named = {*keys(Config), *keys(NamedTarget)}
    assert [key for key in named if not re.search(rf"^[\s#-]*{key}:", EXAMPLE, flags=re.MULTILINE)] == []


def test_every_command_and_flag_is_in_the_documents() -> None:
    text = by_hand("docs/cli.md") + by_hand("docs/simulator.md")
    assert [flag for flag in set(flags(cli.parser())) if not re.search(rf"`{re.escape(flag)}[ `]", text)] == []


def test_every_flag_of_the_table_of_keys_exists_and_every_key_that_is_a_flag_is_there() -> None:
    table = set(re.findall(r"`(--[\w.-]+)`", config_docs.settings()))
    assert table == {flag for flag in flags(cli.parser()) if re.match(r"--\w+\.", flag)} - {"--config.file"}


def test_every_exit_code_is_in_the_documents() -> None:
    codes = set(re.findall(r"^  (\d+) ", cli.EXIT_CODES, re.MULTILINE))
    assert len(codes) > 3
    assert [code for code in codes if f"\n| {code} | " not in by_hand("docs/cli.md")] == []


def endpoints() -> list[str]:
    resources = make_app(cast("Running", None)).router.resources()
    return [resource.canonical for resource in resources if resource.canonical not in ("/page/{name}", "/runbooks")]


def test_every_endpoint_is_in_the_documents() -> None:
    text = by_hand("docs/http-api.md")
    assert [path for path in endpoints() if f"| `{path}` |" not in text] == []


def test_every_reason_of_a_failed_poll_is_in_the_documents() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert [reason for reason in Reason if f"\n| `{reason.value}` | " not in text] == []


def test_the_documents_name_only_metrics_that_exist() -> None:
    known = SIGNALS.keys() | {f"{name}_bucket" for name in SIGNALS}
    for path in (str(document.relative_to(ROOT)) for document in DOCUMENTS if document.name != "CHANGELOG.md"):
        text = by_hand(path)
        asked = re.findall(r"^\| [^|]*\? \|(.*)\|$", text, flags=re.MULTILINE) if path in QUESTIONS else []
        short = {name for row in asked for name in re.findall(r"`([a-z_]{4,})`", row)}
        full = set(re.findall(r"\bvllm_sidecar_([a-z_]+[a-z])\b(?!\*)", text))
        assert short | full <= known, path


def test_the_readme_has_twelve_questions_with_a_metric_each_and_is_short() -> None:
    rows = re.findall(r"^\| [^|]*\? \| `\w+`.*\|$", README, flags=re.MULTILINE)
    assert len(rows) == 12
    assert len(README.splitlines()) <= 150


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = README.partition("## ")[0]
    assert "\nmake demo " in opening
    assert "\nmake test " in opening


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"(?:`|^)(?:\w+=\S+ )?make (\w+)", path.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "check", "bench"} <= used <= targets


def test_the_newest_heading_of_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading[0] != "Unreleased"]

    assert released[0][0] == __version__
    assert all(date for _, date in released)


def test_the_configuration_examples_of_the_documents_are_valid_yaml() -> None:
    blocks = [
        block for path in DOCUMENTS for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), flags=re.DOTALL)
    ]
    assert len(blocks) > 5
    for block in blocks:
        assert isinstance(yaml.safe_load(block), dict)
