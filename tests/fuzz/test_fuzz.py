"""The fuzz targets hold for the corpus, and for some generated inputs; `python tests/fuzz` is the campaign."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from targets import BETWEEN_POLLS, TARGETS  # noqa: E402 - a folder of its own, also for the campaign

pytestmark = pytest.mark.io

CORPUS = sorted((HERE / "corpus").iterdir())
LINES = sorted({line for path in CORPUS for line in path.read_bytes().split(b"\n")})
NUMBERS = st.sampled_from([b"NaN", b"+Inf", b"-1", b"0", b"3", b"1e308", b"1e15", b"9" * 200])


@st.composite
def inputs(draw: st.DrawFn) -> bytes:
    """Make polls of lines of the corpus, some of them with another number, some with other bytes."""
    polls = []
    for _ in range(draw(st.integers(1, 4))):
        lines = draw(st.lists(st.sampled_from(LINES), max_size=25))
        for place in draw(st.lists(st.integers(0, 24), max_size=5)):
            if place < len(lines):
                lines[place] = lines[place].rpartition(b" ")[0] + b" " + draw(NUMBERS | st.binary(max_size=4))
        polls.append(b"\n".join(lines))
    return BETWEEN_POLLS.join(polls)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_every_target_holds_for_every_input_of_the_corpus(name: str, path: Path) -> None:
    TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@examples(300)
@given(data=inputs())
def test_every_target_holds_for_generated_inputs(name: str, data: bytes) -> None:
    TARGETS[name](data)
