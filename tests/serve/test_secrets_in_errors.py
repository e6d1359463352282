"""No error of a file, a command or a variable shows a secret that is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_sidecar import cli

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.io


IN_FILES = (
    "vllm: {{url: 'http://u:{0}@h'}}",
    "vllm: {{url: 'http://u:a/{0}@h'}}",
    "vllm: {{url: 'http://u:{0} x@h:1'}}",
    "vllm: {{url: 'http://h/?key={0}'}}",
    "vllm: {{url: 3, bearer_token: 'two {0}'}}",
    "vllm: {0}",
    "targets: [{0}]",
    "targets: {0}",
    "vllm: {{bearer_token: [{0}]}}",
    "vllm: {{bearer_token: *{0}}}",
    "vllm: {{bearer_token: !{0} x}}",
    "vllm: {{bearer_token: !!int {0}}}",
    "vllm: {{bearer_token: {0}, bearer_token: {0}2}}",
    "vllm: {{bearer_token: {0}, headers: {{Authorization: Bearer {0}}}}}",
    "vllm: {{bearer_token: '{0}\u20ac'}}",
    "vllm: {{headers: {{X-Key: [{0}]}}}}",
    "vllm: {{headers: 'X-Key: {0}'}}",
    "vllm: {{headers: {{'X Key': {0}}}}}",
    "vllm: {{bearer_token_file: hf_{0}0000}}",
    'vllm: {{args: "--api-key \'{0}"}}',
    "vllm: {{args: [--api-key, [{0}]]}}",
    "vllm: {{api_key: {0}}}",
    "targets: [{{name: a, url: 'https://{0}@h'}}]",
    "targets: [{{name: a, bearer_token: {{x: {0}}}}}]",
    "{0}",
    "- {0}",
    "bearer_token: {0}",
    "log: {{level: 'Bearer {0}'}}",
)
"""Configurations that are refused."""
SPOKEN = "Pl4ntedT0ken"


@pytest.mark.parametrize("text", IN_FILES)
def test_no_error_of_a_file_shows_a_secret(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(text.format(SPOKEN))
    assert cli.main(["check-config", str(file)]) == 1
    said = "".join(capsys.readouterr())
    assert said
    assert SPOKEN not in said


COMMANDS = (
    ("serve", "--vllm.bearer-token", SPOKEN),
    ("serve", f"--vllm.bearer-token={SPOKEN}"),
    ("serve", "--vllm.url", f"http://u:{SPOKEN}@h"),
    ("serve", "--vllm.url", f"http://u:a/{SPOKEN}@h:1"),
    ("serve", "--vllm.args", f"--api-key '{SPOKEN}"),
    ("serve", "--log.level", f"Bearer {SPOKEN}"),
    ("generate", "rules", "--live", f"http://u:a:{SPOKEN}@127.0.0.1:1/metrics"),
    ("generate", "rules", "--live", f"http://u:a/{SPOKEN}@127.0.0.1:1/metrics"),
    ("generate", "rules", "--live", f"http://127.0.0.1:1/metrics?token={SPOKEN}"),
    ("generate", "rules", "--live", f"http:///?token={SPOKEN}"),
    ("check-config", f"/no/such/folder/password={SPOKEN}"),
    (f"--token={SPOKEN}",),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_no_error_of_a_command_shows_a_secret(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) in (1, 2)
    said = "".join(capsys.readouterr())
    assert said
    assert SPOKEN not in said


VARIABLES = (
    ("VLLM_BEARER_TOKEN", f"two {SPOKEN}"),
    ("VLLM_HEADERS", f"{{Authorization: [{SPOKEN}]}}"),
    ("VLLM_HEADERS", f"{{Authorization: '{SPOKEN}"),
    ("VLLM_HEADERS", f"Authorization={SPOKEN}"),
    ("VLLM_URL", f"http://u:{SPOKEN}@h"),
    ("VLLM_ARGS", f"--api-key '{SPOKEN}"),
    ("TARGETS", f"[{{name: a, url: 'http://u:{SPOKEN}@h'}}]"),
    ("TARGETS", f"[{{name: a, bearer_token: *{SPOKEN}}}]"),
    ("TARGETS", f"a={SPOKEN}"),
)


@pytest.mark.parametrize(("name", "value"), VARIABLES)
def test_no_error_of_a_variable_shows_a_secret(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VLLM_SIDECAR_{name}", value)
    assert cli.main(["serve"]) == 1
    said = "".join(capsys.readouterr())
    assert f"VLLM_SIDECAR_{name}" in said
    assert SPOKEN not in said
