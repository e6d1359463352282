"""Texts that may contain URLs are shown without credentials, whatever they are, and in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.vllm.urls import cut_text, without_credentials

SHOWN = {
    "no url": ("org/model-7b", "org/model-7b"),
    "a plain url": ("http://h:8000/a/b", "http://h:8000/a/b"),
    "a user part": ("http://user:pw@h/a", "http://h/a"),
    "a user without a password": ("http://token@h/a", "http://h/a"),
    "a password with a slash": ("http://user:hun/ter2@h:1", "http://h:1"),
    "a password with an at sign": ("http://user:p@ss@h", "http://h"),
    "a password with a question mark": ("http://user:p?ss@h/a", "http://h/a"),
    "a query": ("https://h/m?token=abc", "https://h/m"),
    "a fragment": ("https://h/m#token=abc", "https://h/m"),
    "a revision after a slash": ("s3://bucket/model@2", "s3://bucket/model@2"),
    "a password that begins with slashes": ("http://user://pw@h", "http://h"),
    "two urls": ("a://u:p@b c://d:e@f", "a://f"),
    "nothing but separators": ("://" * 5, "://" * 5),
    "a question without a url": ("what?", "what?"),
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.values(), ids=SHOWN)
def test_a_text_is_shown_without_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


PART = st.text(alphabet="ab1.-_ /", max_size=8)


@given(PART, PART, st.text(alphabet="ab/?#@:", min_size=1, max_size=8), PART, PART)
def test_a_password_is_never_shown(before: str, user: str, password: str, host: str, after: str) -> None:
    text = f"{before}http://{user}:{password}SECRET{password}@{host}{after}"
    assert "SECRET" not in without_credentials(text)
    assert all("SECRET" not in without_credentials(cut_text(text, most)) for most in range(len(text) + 1))


@pytest.mark.parametrize("unit", ["://", "://a@", "http://u:p@", "?://", "@", "/", "://:"])
def test_the_time_grows_with_the_length_of_a_text_and_not_with_its_square(unit: str) -> None:
    began = time.perf_counter()
    without_credentials(unit * 300_000)  # the square of it would take minutes
    assert time.perf_counter() - began < 2.0


def test_a_text_that_is_short_enough_is_not_cut() -> None:
    assert cut_text("http://h/a", 10) == "http://h/a"
    assert cut_text("abcdef", 3) == "abc"
    assert cut_text("x http://user:se://cret@h", 20) == "x http"
