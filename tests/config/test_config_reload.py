"""The configuration loaded again: what is taken, and which file is rather a mistake than a change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.config import Config, ConfigError, ConfigSource

if TYPE_CHECKING:
    from pathlib import Path


class File:
    """A config file that changes under a running sidecar."""

    def __init__(self, path: Path, text: str, **flags: object) -> None:
        self.path = path / "config.yaml"
        self.write(text)
        self.source = ConfigSource(self.path, {name.replace("_", "."): value for name, value in flags.items()})
        self.source.load()

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")

    def again(self, text: str) -> Config:
        self.write(text)
        return self.source.load()


@pytest.mark.parametrize("text", ["", "\n", "# vllm: {url: 'http://a:1'}\n"])
def test_a_file_that_became_empty_is_a_mistake_and_not_the_default(tmp_path: Path, text: str) -> None:
    file = File(tmp_path, "vllm: {url: 'http://a:1'}\nlog: {level: debug}\n")

    with pytest.raises(ConfigError, match=r"config\.yaml: is empty or all comments"):
        file.again(text)
    assert file.again("vllm: {url: 'http://a:2'}\n").vllm.url == "http://a:2"


def test_an_empty_file_is_a_mistake_also_where_the_command_line_names_the_server(tmp_path: Path) -> None:
    file = File(tmp_path, "log: {level: debug}\n", vllm_url="http://a:1")

    with pytest.raises(ConfigError, match="is empty"):
        file.again("")


def test_a_file_that_is_as_empty_as_it_was_is_no_mistake(tmp_path: Path) -> None:
    file = File(tmp_path, "# nothing yet\n")

    assert file.again("") == file.again("# still nothing\n") == Config()


@pytest.mark.parametrize(
    "before", ["vllm: {url: 'http://a:1'}", "vllm: {unix_socket: a.sock}", "targets: [{name: a}]", "gpu: {only: true}"]
)
def test_a_server_that_is_named_no_more_does_not_become_the_default(tmp_path: Path, before: str) -> None:
    file = File(tmp_path, before)

    with pytest.raises(ConfigError, match=r"names no server.*write vllm\.url, even if it is http://127"):
        file.again("vllm: {labels: {team: a}}\nlog: {level: debug}\n")
    assert file.again("vllm: {url: 'http://127.0.0.1:8000'}\n").vllm == Config().vllm


def test_a_server_named_on_the_command_line_stays_whatever_the_file_says(tmp_path: Path) -> None:
    file = File(tmp_path, "log: {level: debug}\n", vllm_url="http://a:1")

    assert file.again("log: {level: error}\n").vllm.url == "http://a:1"


def test_other_sections_may_go(tmp_path: Path) -> None:
    file = File(tmp_path, "vllm: {url: 'http://a:1'}\nlog: {level: debug}\n")

    assert file.again("vllm: {url: 'http://a:1'}\n").log.level == "info"
