"""What a client takes, by its headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.serve.negotiation import has_already, takes_gzip, takes_openmetrics

OPENMETRICS = "application/openmetrics-text"


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (OPENMETRICS, True),
        (f"{OPENMETRICS};version=1.0.0", True),
        (f'{OPENMETRICS}; version="1.0.0"; charset=utf-8', True),
        (f"{OPENMETRICS};version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        (f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        (f"{OPENMETRICS},text/plain", True),
        (f"TEXT/PLAIN;q=0.5,{OPENMETRICS.upper()};Q=0.5", True),
        (f"{OPENMETRICS};q=0.5,text/plain", False),
        (f"{OPENMETRICS};version=2.0.0", False),
        (f"{OPENMETRICS};version=x", False),
        (f"{OPENMETRICS};version=", False),
        (f"{OPENMETRICS};q=0", False),
        (f"{OPENMETRICS};q=0.000,*/*", False),
        (f"{OPENMETRICS};q=high", False),
        (f"{OPENMETRICS};q=nan", False),
        (f"{OPENMETRICS};q=inf", False),
        ("*/*", False),
        ("application/*", False),
        ("", False),
        (",,;;q=,", False),
    ],
)
def test_openmetrics_is_for_those_who_ask_for_it(accept: str, taken: bool) -> None:
    assert takes_openmetrics(accept) is taken


@pytest.mark.parametrize(
    ("accept_encoding", "taken"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("*", True),
        ("*;q=0, gzip", True),
        ("gzip;q=0.001", True),
        ("identity;q=1, *;q=0.1", True),
        ("gzip;q=0, *", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0000", False),
        ("gzip; q = 0", False),
        ("gzip;q=.", False),
        ("gzip;q=-1", False),
        ("gzip;q=", False),
        ("*;q=0", False),
        ("identity", False),
        ("br", False),
        ("", False),
    ],
)
def test_gzip_is_for_those_who_take_it(accept_encoding: str, taken: bool) -> None:
    assert takes_gzip(accept_encoding) is taken


@pytest.mark.parametrize(
    ("if_none_match", "known"),
    [
        ('"a1"', True),
        ('W/"a1"', True),
        ('"b2", W/"a1" , "c3"', True),
        ("*", True),
        (" * ", True),
        ('"*"', False),
        ("a1", False),
        ('"a1', False),
        ('"b2"', False),
        ("", False),
        (",", False),
    ],
)
def test_a_tag_is_found_in_every_form_that_caches_send(if_none_match: str, known: bool) -> None:
    assert has_already(if_none_match, "a1") is known


@given(st.text() | st.text(alphabet='gzip*;q=0.1, /"W'))
def test_no_header_breaks_them(header: str) -> None:
    assert takes_openmetrics(header) in (True, False)
    assert takes_gzip(header) in (True, False)
    assert has_already(header, "a1") in (True, False)
