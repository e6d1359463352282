"""The documents: complete, and pointing at what exists."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, cast

import pytest
import yaml
from places import ROOT

from vllm_sidecar import __version__, cli
from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.config import Config, NamedTarget
from vllm_sidecar.serve.http import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel

    from vllm_sidecar.serve.http import Running

README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "exporter" / "config.example.yaml").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), ROOT / "dashboards" / "README.md", ROOT / "rules" / "README.md"])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
BY_HAND = re.sub(r"<!-- generated: .*?<!-- end generated -->", "", README, flags=re.DOTALL)


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


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("key", sorted({*keys(Config), *keys(NamedTarget)}))
def test_every_key_of_the_configuration_is_in_the_example(key: str) -> None:
    assert re.search(rf"^[\s#-]*{key}:", EXAMPLE, flags=re.MULTILINE)


@pytest.mark.parametrize("flag", sorted(set(flags(cli._parser()))))
def test_every_command_and_flag_is_in_the_readme(flag: str) -> None:
    assert re.search(rf"`{re.escape(flag)}[ `]", BY_HAND)


def endpoints() -> list[str]:
    resources = make_app(cast("Running", None)).router.resources()
    return [resource.canonical for resource in resources if resource.canonical not in ("/page/{name}", "/runbooks")]


@pytest.mark.parametrize("path", endpoints())
def test_every_endpoint_is_in_the_readme(path: str) -> None:
    assert f"| `{path}` |" in BY_HAND


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_failed_poll_is_in_the_readme(reason: Reason) -> None:
    assert f"\n| `{reason.value}` | " in README


def test_the_readme_names_only_metrics_that_exist() -> None:
    rows = re.findall(r"^\| [^|]*\? \|(.*)\|$|^\| Can I trust all this\? \|(.*)\|$", BY_HAND, flags=re.MULTILINE)
    short = {name for row in rows for name in re.findall(r"`(\w+)`", "".join(row))}
    full = set(re.findall(r"vllm_sidecar_([a-z_]+)", BY_HAND))
    known = SIGNALS.keys() | {f"{name}_bucket" for name in SIGNALS}

    assert len(rows) > 10
    assert short | full - {""} <= known


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = README.partition("## ")[0]
    assert "\nmake demo " in opening
    assert "\nmake test " in opening


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_internal_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


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


def test_the_configuration_examples_of_the_readme_are_valid_yaml() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert isinstance(yaml.safe_load(block), dict)
