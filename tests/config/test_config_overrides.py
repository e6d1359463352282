"""Settings from the command line and the environment: every key, how their texts are read, and what goes first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import EXPORTER

from vllm_sidecar.config import Config, ConfigError, is_secret, keys, load, unknown_variables, variable
from vllm_sidecar.config.overrides import _OF_A_SERVICE

KEYS = dict(keys())
EXAMPLE = yaml.safe_load((EXPORTER / "config.example.yaml").read_text(encoding="utf-8"))


def default(path: tuple[str, ...]) -> Any:
    """What a key holds by default, as the example writes it."""
    found: Any = EXAMPLE
    for step in path:
        found = found[step]
    return found


def from_environment(**variables: str) -> Config:
    return load(None, {}, {f"VLLM_SIDECAR_{name}": text for name, text in variables.items()})


def test_every_key_of_every_section_has_a_variable_of_its_own() -> None:
    names = [variable(path) for path in KEYS]

    assert len(set(names)) == len(names)
    assert {"VLLM_SIDECAR_SCRAPE_INTERVAL", "VLLM_SIDECAR_VLLM_CA_FILE", "VLLM_SIDECAR_GPU_SLOW_INTERVAL"} < set(names)
    assert {path[0] for path in KEYS} == set(Config.model_fields)


def test_no_variable_is_one_that_kubernetes_sets_for_a_service() -> None:
    values = ("tcp://10.0.0.1:80", "10.0.0.1")
    assert [path for path in KEYS for each in values if _OF_A_SERVICE.fullmatch(f"{variable(path)}={each}")] == []


WITH_TEXT = [path for path in KEYS if path[0] not in ("vllm", "web", "otlp", "canary") or default(path) is not None]
"""A file, a socket or a token that is not there has no text."""


@pytest.mark.parametrize("path", WITH_TEXT, ids=".".join)
def test_every_key_reads_its_default_back_from_a_variable(path: tuple[str, ...]) -> None:
    assert load(None, {}, {variable(path): json.dumps(default(path)).strip('"')}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("SCRAPE_INTERVAL", "500ms", ("scrape", "interval"), 0.5),
        ("GPU_PROCESSES", "true", ("gpu", "processes"), True),
        ("SCRAPE_SERVER_TIME_RATIO", "0.05", ("scrape", "server_time_ratio"), 0.05),
        ("SCRAPE_MAX_BODY_SIZE", "1048576", ("scrape", "max_body_size"), 1048576),
        ("LIMITS_ADAPTERS", "7", ("limits", "adapters"), 7),
        ("GPU_EXPECTED", "8", ("gpu", "expected"), 8),
        ("GPU_DEVICES", "[0, 1]", ("gpu", "devices"), ("0", "1")),
        ("GPU_DEVICES", "none", ("gpu", "devices"), "none"),
        ("VLLM_LABELS", "{team: search}", ("vllm", "labels"), {"team": "search"}),
        ("VLLM_ARGS", "vllm serve m --max-num-seqs 8", ("vllm", "args"), ("vllm", "serve", "m", "--max-num-seqs", "8")),
        ("VLLM_ARGS", "[serve, m]", ("vllm", "args"), ("serve", "m")),
        ("VLLM_ARGS", """serve --x '{"a": 1}'""", ("vllm", "args"), ("serve", "--x", '{"a": 1}')),
        ("VLLM_INSECURE_SKIP_VERIFY", "true", ("vllm", "insecure_skip_verify"), True),
        ("VLLM_UNIX_SOCKET", "run/vllm.sock", ("vllm", "unix_socket"), Path("run/vllm.sock")),
        ("VLLM_HEADLESS", "false", ("vllm", "headless"), False),
        ("WEB_LISTEN_ADDRESS", ":9000", ("web", "listen_address"), (":9000",)),
        ("WEB_LISTEN_ADDRESS", "[::1]:1, unix:/run/a", ("web", "listen_address"), ("[::1]:1", "unix:/run/a")),
        ("WEB_LISTEN_ADDRESS", "['[::1]:1', ':2']", ("web", "listen_address"), ("[::1]:1", ":2")),
        ("WEB_ALLOWED_HOSTS", "A.example.com,.b.org", ("web", "allowed_hosts"), ("a.example.com", ".b.org")),
        ("LOG_LEVEL", "debug", ("log", "level"), "debug"),
    ],
)  # fmt: skip
def test_a_text_is_read_as_the_file_reads_it(name: str, text: str, path: tuple[str, ...], value: object) -> None:
    found: Any = from_environment(**{name: text})
    for step in path:
        found = getattr(found, step)

    assert found == value


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("log: {level: debug, format: json}\nlimits: {adapters: 1}\n", encoding="utf-8")
    variables = {"VLLM_SIDECAR_LOG_LEVEL": "warning", "VLLM_SIDECAR_LIMITS_ADAPTERS": "2"}

    config = load(file, {"log.level": "error"}, variables)

    assert (config.log.level, config.limits.adapters, config.log.format) == ("error", 2, "json")


def test_a_section_that_the_file_leaves_empty_can_be_set_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("log:\n  # level: debug\n", encoding="utf-8")

    assert load(file, {}, {"VLLM_SIDECAR_LOG_LEVEL": "error"}).log.level == "error"


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert from_environment(VLLM_URL="", SCRAPE_INTERVAL="") == Config()


def test_relative_paths_start_at_the_current_folder_and_not_at_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("web: {}\n", encoding="utf-8")

    assert load(file, {"vllm.unix_socket": "vllm.sock"}).vllm.unix_socket == Path("vllm.sock")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("SCRAPE_INTERVAL", "soon", 'scrape.interval: got "soon"; allowed: a duration such as'),
        ("GPU_PROCESSES", "yes", 'gpu.processes: got "yes"; allowed: true or false'),
        ("LIMITS_ADAPTERS", "-1", "limits.adapters: got -1; allowed: a number from 0"),
        ("LIMITS_ADAPTERS", "[", 'limits.adapters: got "["; allowed: a whole number'),
        ("VLLM_HEADLESS", "maybe", 'vllm.headless: got "maybe"; allowed: true, false or auto'),
        ("VLLM_LABELS", "team", 'vllm.labels: got "team"; allowed: a mapping of names to texts, such as {NAME: TEXT}'),
        ("VLLM_CA_FILE", "/none", 'vllm.ca_file: got "/none"; allowed: a file that can be read (/none: No such file'),
        ("TARGETS", "[{url: ftp://a, name: b}]", 'targets.0.url: got "ftp://a"; allowed: http://HOST'),
    ],
)
def test_a_mistake_names_the_variable(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment(**{name: text})

    assert str(caught.value).startswith(f"environment variable VLLM_SIDECAR_{name}: {complaint}")


def test_a_token_from_the_environment_is_used_and_shown_nowhere() -> None:
    config = from_environment(VLLM_BEARER_TOKEN="s3cret")

    assert config.vllm.bearer_token is not None
    assert config.vllm.bearer_token.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "é"])
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment(VLLM_BEARER_TOKEN=token)

    assert str(caught.value) == (
        "environment variable VLLM_SIDECAR_VLLM_BEARER_TOKEN: vllm.bearer_token: got ***; "
        "allowed: a token: printable ASCII without blanks"
    )


def test_only_one_kind_of_authorization_is_taken(tmp_path: Path) -> None:
    for other in ("headers: {Authorization: x}", f"bearer_token_file: {__file__}"):
        file = tmp_path / "config.yaml"
        file.write_text(f"vllm: {{{other}}}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match="either bearer_token or"):
            load(file, {}, {"VLLM_SIDECAR_VLLM_BEARER_TOKEN": "s3cret"})


def test_what_holds_secrets_is_known_by_its_type() -> None:
    known = {path for path, field in KEYS.items() if is_secret(field)}
    both = {(section, key) for section in ("vllm", "otlp") for key in ("bearer_token", "headers")}
    assert known == both | {("canary", "headers")}


def test_unknown_variables_are_told_and_those_of_kubernetes_are_not() -> None:
    environment = {
        "VLLM_SIDECAR_SERVICE_HOST": "10.0.0.1",
        "VLLM_SIDECAR_SERVICE_PORT": "10190",
        "VLLM_SIDECAR_SERVICE_PORT_METRICS": "10190",
        "VLLM_SIDECAR_PORT": "tcp://10.0.0.1:10190",
        "VLLM_SIDECAR_PORT_10190_TCP": "tcp://10.0.0.1:10190",
        "VLLM_SIDECAR_PORT_10190_TCP_PROTO": "tcp",
        "VLLM_SIDECAR_GPU_SERVICE_HOST": "10.0.0.1",
        "VLLM_SIDECAR_GPU_PORT_10190_TCP_ADDR": "10.0.0.1",
        "VLLM_SIDECAR_CONFIG_FILE": "x",
        "VLLM_SIDECAR_PROMTOOL": "x",
        "VLLM_SIDECAR_SCRAPE_INTERVAL": "1s",
        "VLLM_PORT": "8000",
    }

    assert unknown_variables(environment) == []
    assert unknown_variables({**environment, "VLLM_SIDECAR_SCRAPE_INTERVALL": "", "VLLM_SIDECAR_XYZ": "1"}) == [
        "VLLM_SIDECAR_SCRAPE_INTERVALL is not a setting; did you mean VLLM_SIDECAR_SCRAPE_INTERVAL?",
        "VLLM_SIDECAR_XYZ is not a setting",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SCRAPE", "it is a section: set one of its keys, such as VLLM_SIDECAR_SCRAPE_INTERVAL"),
        ("DISCOVERY_KUBERNETES_LABEL_SELECTOR", "VLLM_SIDECAR_DISCOVERY_KUBERNETES takes the whole value, in YAML"),
        ("VLLM_LABELS_TEAM", "VLLM_SIDECAR_VLLM_LABELS takes the whole value, in YAML"),
        ("LISTEN_ADDRESS", "did you mean VLLM_SIDECAR_WEB_LISTEN_ADDRESS?"),
        ("PORT", "did you mean VLLM_SIDECAR_WEB_LISTEN_ADDRESS, such as :9000?"),
        ("WEB_PORT", "did you mean VLLM_SIDECAR_WEB_LISTEN_ADDRESS, such as :9000?"),
        ("SCRAP_INTERVAL", "did you mean VLLM_SIDECAR_SCRAPE_INTERVAL?"),
    ],
)
def test_a_variable_that_is_not_a_setting_is_answered_with_the_one_that_is(name: str, meant: str) -> None:
    assert unknown_variables({f"VLLM_SIDECAR_{name}": "1"}) == [f"VLLM_SIDECAR_{name} is not a setting; {meant}"]


WRONG = ("maybe", "-1", "{a b: [c]}", "[[]]", "a: b: c", "/no/such/file", "a 'b")
FREE = {("vllm", "unix_socket")}
"""A path of a socket that may be made later: any text is one."""


@pytest.mark.parametrize("path", [path for path in KEYS if path not in FREE], ids=".".join)
def test_a_wrong_variable_gets_the_error_of_the_file_with_its_own_name(path: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    compared = 0
    for text in WRONG:
        given: object = text
        for step in reversed(path):
            given = {step: given}
        file.write_text(json.dumps(given))
        by_variable = mistakes(None, {variable(path): text})
        assert all(line.startswith(f"environment variable {variable(path)}: {'.'.join(path)}") for line in by_variable)
        assert all("; allowed: " in line for line in by_variable)
        without_origin = [[line.partition(": ")[2] for line in each] for each in (by_variable, mistakes(file, {}))]
        compared += bool(by_variable) and without_origin[0] == without_origin[1]
    assert compared, path


def mistakes(file: Path | None, variables: dict[str, str]) -> tuple[str, ...]:
    try:
        load(file, {}, variables)
    except ConfigError as error:
        return error.mistakes
    return ()
