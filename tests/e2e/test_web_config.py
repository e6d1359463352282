"""Real Prometheus scrapes over TLS with a client certificate and a password, and goes on when all of them change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import bcrypt
import promtool
import pytest
from certificates import Issuer
from prometheus_process import configuration, job, prometheus
from sidecar_process import started

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_process import Prometheus

pytestmark = pytest.mark.e2e

WEB = """
tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_ca_file: issuer.crt
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus.example.com]
basic_auth_users:
  prom: {hash}
"""


def scrapes_until(found: Prometheus, name: str, up: str) -> None:
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        if [one["value"][1] for one in found.query(f'up{{job="{name}"}}')] == [up]:
            return
        time.sleep(0.3)
    raise AssertionError(f"up of {name} is not {up}: {found.ask('targets')['activeTargets']}")


def written(path: Path, text: str) -> None:
    """Replace a file at once, as a mounted Secret is replaced."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_prometheus_scrapes_over_tls_with_a_certificate_and_a_password(tmp_path: Path) -> None:
    promtool.program()  # skips, or fails in CI, where Prometheus is not installed
    issuer = Issuer(tmp_path)
    issuer.issue("server", "127.0.0.1")
    client, stranger = issuer.issue("client", "prometheus.example.com"), issuer.issue("stranger", "other.example.com")
    password = tmp_path / "password"
    password.write_text("s3cret")
    web = tmp_path / "web.yml"
    web.write_text(WEB.format(hash=bcrypt.hashpw(b"s3cret", bcrypt.gensalt(6)).decode()))
    with started("--vllm.url", "http://127.0.0.1:1", "--web.config.file", str(web)) as (running, base):
        user = {"username": "prom", "password_file": str(password)}

        def through(name: str, cert: Path, key: Path, **more: object) -> dict[str, object]:
            tls = {"ca_file": str(issuer.cert), "cert_file": str(cert), "key_file": str(key)}
            return job(name, base, scheme="https", tls_config=tls, **more)

        jobs = (
            through("right", client.cert, client.key, basic_auth=user),
            through("no-password", client.cert, client.key),
            through("stranger", stranger.cert, stranger.key, basic_auth=user),
            job("plain", base, basic_auth=user),
        )
        with prometheus(tmp_path, configuration(1, *jobs)) as found:
            scrapes_until(found, "right", "1")
            for name in ("no-password", "stranger", "plain"):
                scrapes_until(found, name, "0")
            issuer.issue("server", "127.0.0.1")
            written(web, WEB.format(hash=bcrypt.hashpw(b"n3w", bcrypt.gensalt(6)).decode()))
            scrapes_until(found, "right", "0")
            written(password, "n3w")
            scrapes_until(found, "right", "1")
        assert "event=web_config_reloaded" in running.log
        assert "Traceback" not in running.log
