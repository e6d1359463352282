"""`check-config --print`: every value once, where it is set, no secret, and a file that means the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from places import EXPORTER

from vllm_sidecar.cli import main
from vllm_sidecar.config import Config, keys, load

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EXAMPLES = [EXPORTER / "config.example.yaml"]
FULL = """\
web: {listen_address: "127.0.0.1:0"}
log:
  level: debug

slos:
scrape:
  interval: 1s500ms
  server_time_ratio: 0.5
  max_body_size: 1048576
gpu: {devices: [0, "0:1"], expected: 2}
targets:
  - name: chat
    url: http://10.0.0.1:8000
    labels: {team: "on", "x": "1e3", y: '"', z: "#"}
    unix_socket: run/vllm.sock
    args: vllm serve m
  - {name: "no", url: "http://[::1]:1/a"}
"""


def printed(
    file: Path | None, capsys: pytest.CaptureFixture[str], *flags: str, environment: Mapping[str, str] | None = None
) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, text in (environment or {}).items():
            patch.setenv(name, text)
        assert main(["check-config", "--print", *flags, *([str(file)] if file else [])]) == 0
    return capsys.readouterr().out


def origins(text: str) -> dict[str, str]:
    """Return the origin of each key by its dotted path; of items of lists that of the last one."""
    found, above = {}, {0: ""}
    for line in text.splitlines()[1:]:
        match = re.fullmatch(r"( *)(- )?(\w+):(?: .*? +# (.+))?", line)
        assert match, line
        depth = len(match[1]) + len(match[2] or "")
        path = f"{above[depth]}{match[3]}"
        above[depth + 2] = above[depth + 4] = f"{path}."
        if match[4]:
            found[path] = match[4]
    return found


def test_each_value_has_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("log:\n  level: debug\n  format: json\nslos:\nwindows: {length: 30s, keep: 2m}\n")
    environment = {
        "VLLM_SIDECAR_LOG_LEVEL": "error",
        "VLLM_SIDECAR_GPU_DEVICES": "[0, 1]",
        "VLLM_SIDECAR_VLLM_URL": "http://a",
    }
    found = origins(printed(file, capsys, "--vllm.url", "http://b:1", environment=environment))

    assert found["log.format"] == "line 3"
    assert found["log.level"] == "environment variable VLLM_SIDECAR_LOG_LEVEL"
    assert found["vllm.url"] == "command line"
    assert found["windows.length"] == found["windows.keep"] == "line 5"
    assert found["gpu.devices"] == "environment variable VLLM_SIDECAR_GPU_DEVICES"
    assert found["scrape.interval"] == found["slos.latencies.threshold"] == "default"


def test_every_key_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    found = origins(printed(None, capsys))
    expected = {".".join(path) for path, _ in keys()} - {"slos.latencies", "canary.prompts"}
    assert expected <= set(found)
    assert {*found.values()} == {"default"}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.name)
def test_what_is_printed_of_an_example_means_the_same(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(printed(file, capsys))
    assert load(again) == load(file)


@pytest.mark.parametrize("text", [FULL, "gpu: {only: true, devices: all}", "vllm: {labels: {a: ~b}}", ""])
def test_what_is_printed_means_the_same(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, again = tmp_path / "c.yaml", tmp_path / "again.yaml"
    file.write_text(text)
    again.write_text(printed(file, capsys).replace("args: '***'", "args: vllm serve m"))
    assert load(again) == load(file)


def test_secrets_are_hidden_and_their_names_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "targets:\n"
        "  - {name: a, bearer_token: s3cret-in-file, args: [--api-key, s3cret-in-args]}\n"
        "  - {name: b, headers: {X-Key: s3cret-in-header}, labels: {url: 'http://u:s3cret-in-label@h'}}\n"
    )
    text = printed(file, capsys)
    assert "s3cret" not in text
    assert "headers: {X-Key: '***'}" in text
    assert text.count("bearer_token: '***'") == 1


def test_the_default_configuration_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config"]) == 0
    assert capsys.readouterr().out.startswith("no file: OK, 1 target every 1s")
    assert load(None) == Config()


def test_the_flags_of_serve_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--vllm.url", "nowhere"]) == 1
    assert "command line: vllm.url: got" in capsys.readouterr().err


def test_the_file_of_the_environment_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_SIDECAR_CONFIG_FILE", str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("web: {listen_address: ':1'}")
    assert main(["check-config"]) == 0
    assert "served on :1" in capsys.readouterr().out
