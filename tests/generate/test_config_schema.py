"""The JSON Schema of the configuration: valid, complete, and of the same opinion as the program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from places import EXPORTER, ROOT
from properties import examples

from vllm_sidecar.config import Config, ConfigError, keys, load
from vllm_sidecar.generate.config_schema import FILE, schema

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((ROOT / FILE).read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
BAD = sorted((ROOT / "tests" / "configs").glob("bad-*.yaml"))
BEYOND = {
    "bad-connect-timeout-above-timeout", "bad-default-below-interval", "bad-keep-below-length", "bad-keep-too-long",
    "bad-slo-twice", "bad-duplicate-target-name", "bad-target-and-targets", "bad-header-twice-authorization",
    "bad-key-without-certificate", "bad-gpu-interval-short", "bad-gpu-slow-interval-below-interval",
    "bad-gpu-only-and-simulate", "bad-gpu-only-with-vllm", "bad-gpu-simulate-without-devices", "bad-duration-zero",
    "bad-file-missing", "bad-file-is-folder", "bad-args-open-quote", "bad-url-user", "bad-url-port",
    "bad-url-of-the-metrics",
    "bad-address-port-too-high", "bad-address-bad-ipv6", "bad-header-line-break", "bad-duplicate-key",
    "bad-discovery-and-simulated-gpus", "bad-discovery-and-gpu-only", "bad-discovery-and-vllm", "bad-discovery-shard",
    "bad-discovery-target-socket", "bad-discovery-target-brace", "bad-discovery-file-without-files",
    "bad-otlp-interval-short", "bad-canary-expectations", "bad-canary-url-of-several", "bad-canary-too-often",
    "bad-canary-no-prompt", "bad-recursive-alias", "bad-yaml-syntax", "bad-yaml-tag", "bad-yaml-two-documents",
}  # fmt: skip
"""Mistakes that no schema can find: they depend on other values, on files, or are none of the shape."""


def problems(document: object) -> list[str]:
    return [f"{error.json_path}: {error.message}"[:200] for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_valid_schema_and_up_to_date() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert schema() == SCHEMA, "run: make generate"


def test_every_key_has_a_description_in_it() -> None:
    for path, field in keys():
        part: dict[str, Any] = SCHEMA
        for step in path:
            reference = part.get("$ref") or next((each["$ref"] for each in part.get("anyOf", ()) if "$ref" in each), "")
            part = SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else part
            part = part["properties"][step]
        assert part["description"] == field.description, path


@pytest.mark.parametrize("text", [(EXPORTER / "config.example.yaml").read_text(), "", "log:\nweb:\n"])
def test_an_example_is_valid(text: str) -> None:
    assert problems(yaml.safe_load(text)) == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_mistake_of_the_shape_is_found(path: Path) -> None:
    """Text is read as the program reads it: YAML 1.2, in which `on` is a text."""
    from vllm_sidecar.config.document import DocumentError, read_document

    try:
        document = read_document(path.read_text(encoding="utf-8")).root
    except DocumentError:
        assert path.stem in BEYOND
        return
    assert bool(problems(document)) is (path.stem not in BEYOND), problems(document)


def optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


def among(*values: object) -> st.SearchStrategy[Any]:
    """Draw one of some values that are nearly right, or any other."""
    return st.one_of(st.sampled_from(values), ANY)


TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["a b", "A1", "auto", "\u00e9"]))
NUMBERS = st.one_of(st.integers(-2, 2**40), st.floats(allow_nan=False))
ANY = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.just([]), st.just({}))
DURATIONS = among("1s", "500ms", "1m30s", "", "1", "s", "1h1d", "2d")
TARGET = optional(
    url=among("http://h", "https://[::1]:1/a", "ftp://h", "http://h?a"),
    metrics_path=among("/m", "m", "/a b"),
    labels=st.one_of(st.dictionaries(st.sampled_from(["team", "job", "__x", "1a"]), TEXTS, max_size=2), ANY),
    headers=st.one_of(st.dictionaries(st.sampled_from(["X-A", "a b"]), TEXTS, max_size=2), ANY),
    bearer_token=among("abc", "a b"),
    unix_socket=ANY,
    args=st.one_of(st.lists(TEXTS, max_size=2), ANY),
    insecure_skip_verify=ANY,
    ulr=ANY,
)
OBJECTIVE = st.fixed_dictionaries(
    {"name": TEXTS, "latency": st.sampled_from(["queue", "x"]), "threshold": DURATIONS}, optional={"model": ANY}
)
DOCUMENTS = optional(
    web=optional(listen_address=among(":1", "a:2", "[::1]:3", "a", ":99999"), enable_lifecycle=ANY),
    log=st.one_of(optional(level=among("debug", "loud"), format=ANY), ANY),
    scrape=optional(interval=DURATIONS, server_time_ratio=ANY, max_body_size=among("16MiB", "1KB", 1024, 1023)),
    gpu=optional(devices=among("all", [0], ["0:1", "GPU-a"], ["x"], [True], []), expected=ANY, processes=ANY),
    slos=optional(enabled=ANY, latencies=st.one_of(st.lists(OBJECTIVE, max_size=2), ANY)),
    limits=optional(adapters=ANY),
    vllm=TARGET,
    targets=st.one_of(st.lists(TARGET.map(lambda each: each | {"name": "a"}), max_size=1), ANY),
)


@pytest.mark.hypothesis
def test_whatever_the_program_accepts_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    accepted = 0

    @examples(2000)
    @given(DOCUMENTS)
    def compare(document: dict[str, Any]) -> None:
        nonlocal accepted
        file.write_text(json.dumps(document), encoding="utf-8")
        try:
            load(file)
        except ConfigError:
            return
        accepted += bool(document)
        assert problems(document) == []

    compare()
    assert accepted > 20


def test_the_defaults_in_it_are_those_of_the_program() -> None:
    for name, part in SCHEMA["$defs"].items():
        if name in ("NamedTarget", "LatencyObjective"):
            continue
        section = next((key for key, each in SCHEMA["properties"].items() if f'/{name}"' in json.dumps(each)), None)
        if section is None:  # part of a list in another section
            continue
        defaults = {key: each["default"] for key, each in part["properties"].items() if "default" in each}
        assert Config.model_validate({section: defaults}) == Config()
