"""The validity of certificates, read from their encoding, as `cryptography` reads it."""

from __future__ import annotations

import ssl
import tempfile
from functools import cache
from pathlib import Path

import pytest
from certificates import Issuer
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.vllm.validity import Validity, earliest_in_file, earliest_in_text, validity

YEARS_2050 = 30 * 365.0
"""Days after which a certificate has a time with four digits of the year."""


def expected(pem: str) -> Validity:
    found = x509.load_pem_x509_certificate(pem.encode())
    return Validity(found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp())


@pytest.mark.parametrize("days", [0.5, 90.0, YEARS_2050])
def test_a_certificate_is_valid_as_long_as_cryptography_reads_it(tmp_path: Path, days: float) -> None:
    pem = Issuer(tmp_path).issue("a", "localhost", "127.0.0.1", days=days).cert.read_text()

    assert validity(ssl.PEM_cert_to_DER_cert(pem)) == expected(pem)


def test_of_several_certificates_the_first_to_expire_counts(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    long, short = (issuer.issue(name, "a", days=days).cert.read_text() for name, days in (("l", 90.0), ("s", 2.0)))
    (tmp_path / "chain.pem").write_text(f"a comment\n{long}{short}")

    assert earliest_in_text(long + short) == earliest_in_text(short + long) == expected(short)
    assert earliest_in_file(tmp_path / "chain.pem") == expected(short)


@pytest.mark.parametrize("text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_without_a_certificate_there_is_no_validity(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.pem").write_text(text)

    assert earliest_in_text(text) is earliest_in_file(tmp_path / "a.pem") is earliest_in_file(tmp_path / "none") is None


@cache
def encoded() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return ssl.PEM_cert_to_DER_cert(Issuer(Path(folder)).issue("a", "localhost").cert.read_text())


@given(st.data())
def test_a_certificate_that_is_damaged_has_a_validity_or_none_and_is_never_an_error(data: st.DataObject) -> None:
    der = bytearray(encoded())
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(der)))

    for damaged in (bytes(der), bytes(der[:cut])):
        found = validity(damaged)
        assert found is None or isinstance(found, Validity)
