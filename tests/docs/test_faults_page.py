"""The page about the faults has every fault that the program is tried with, and promises that are kept."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from places import ROOT, TESTS

sys.path.append(str(TESTS / "faults"))

from page import names

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
FOUND = names(PAGE)
FEWEST = 450
"""Fewest faults that the program is tried with."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TESTS / "faults"), *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.fixture(scope="module")
def cases() -> dict[str, list[str]]:
    return json.loads(run("--list").stdout)  # type: ignore[no-any-return]


@pytest.mark.io
def test_there_are_hundreds_of_faults_and_no_two_have_one_name(cases: dict[str, list[str]]) -> None:
    assert sum(map(len, cases.values())) >= FEWEST
    assert all(len(set(each)) == len(each) for each in cases.values())


@pytest.mark.io
def test_each_table_of_the_page_has_the_faults_of_its_group(cases: dict[str, list[str]]) -> None:
    assert {title: cases.get(title) for title in FOUND} == FOUND


def test_every_promise_on_the_page_was_kept() -> None:
    assert "**broken**" not in PAGE
    assert PAGE.count("| held |") == sum(map(len, FOUND.values()))


@pytest.mark.slow
@pytest.mark.io
def test_a_sample_of_each_group_keeps_its_promises() -> None:
    done = run("--sample", "2")

    assert done.returncode == 0, done.stdout + done.stderr
