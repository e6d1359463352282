"""The tables of all keys: each key once, with a default that means what the schema says."""

from __future__ import annotations

import re

import yaml

from vllm_sidecar.config import Config, keys
from vllm_sidecar.config.overrides import variable
from vllm_sidecar.generate.config_docs import settings

TABLES = settings()
ROWS = re.findall(r"^\| `(\w+)` \| `([^|]*)` \| `(VLLM_SIDECAR_\w+)` \|", TABLES, flags=re.MULTILINE)


def test_every_key_is_there_once_with_its_variable() -> None:
    variables = re.findall(r"\| `(VLLM_SIDECAR_\w+)` \|", TABLES)
    assert variables == [variable(path) for path, _ in keys() if path != ("targets",)]


def test_a_file_of_the_defaults_in_the_tables_means_the_same_as_an_empty_one() -> None:
    content: dict[str, dict[str, object]] = {}
    for key, default, name in ROWS:
        section = name.removeprefix("VLLM_SIDECAR_").removesuffix(f"_{key.upper()}").lower()
        content.setdefault(section, {})[key] = yaml.safe_load(default)

    assert len(ROWS) > 40
    assert Config.model_validate(content) == Config()


def test_a_list_of_sections_has_a_table_of_its_own_and_repeats_no_key_of_vllm() -> None:
    _, _, targets = TABLES.partition("### `targets`")
    assert re.findall(r"^\| `(\w+)` \|", targets.partition("###")[0], flags=re.MULTILINE) == ["name"]
    assert "### `slos.latencies`" in TABLES
