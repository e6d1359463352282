"""Which names a browser may use, and which requests come from another site."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.serve.listener.hosts import is_allowed, is_same_origin

ALLOWED = ("sidecar.example.com", ".below.example.org")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:10190", True),
        ("10.0.0.7", True),
        ("[::1]:10190", True),
        ("[fe80::1%25eth0]:1", True),
        ("localhost:10190", True),
        ("LOCALHOST", True),
        ("a.localhost", True),
        ("node7:10190", True),
        ("vllm-sidecar.chat.svc", True),
        ("vllm-sidecar.chat.svc.cluster.local:10190", True),
        ("gpu7.internal", True),
        ("", True),
        ("sidecar.example.com", True),
        ("Sidecar.Example.COM.:443", True),
        ("x.below.example.org", True),
        ("below.example.org", False),
        ("evil.sidecar.example.com", False),
        ("evil.com", False),
        ("evil.com:10190", False),
        ("127.0.0.1.evil.com", False),
        ("localhost.evil.com", False),
        ("1.2.3", False),
        ("evil.com.", False),
    ],
)
def test_pages_open_under_addresses_private_names_and_those_that_are_configured(host: str, allowed: bool) -> None:
    assert is_allowed(host, ALLOWED) is allowed


@pytest.mark.parametrize(
    ("origin", "site", "same"),
    [
        (None, None, True),
        ("http://a:10190", None, True),
        ("https://A:10190", "same-origin", True),
        (None, "none", True),
        ("http://a", None, False),
        ("http://evil.com", None, False),
        ("null", None, False),
        ("http://[", None, False),
        ("http://a:10190", "cross-site", False),
        ("http://a:10190", "same-site", False),
        (None, "cross-site", False),
    ],
)
def test_only_pages_of_the_sidecar_itself_and_programs_have_the_same_origin(
    origin: str | None, site: str | None, same: bool
) -> None:
    assert is_same_origin("a:10190", origin, site) is same


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_them(host: str, origin: str, site: str) -> None:
    assert is_allowed(host, ALLOWED) in (True, False)
    assert is_same_origin(host, origin, site) in (True, False)
