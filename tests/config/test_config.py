"""The config: what a file may say, what the values become, and that the example says it all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from certificates import Issuer
from hypothesis import given
from hypothesis import strategies as st
from places import EXPORTER, ROOT

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.config import (
    DEFAULT_PORT,
    Config,
    format_duration,
    load,
    parse_duration,
)
from vllm_sidecar.config.values import TAKEN_LABELS, split_listen_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydantic import BaseModel

EXAMPLE = EXPORTER / "config.example.yaml"
DOCS = ROOT / "docs"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.mark.parametrize("text", ["", "# nothing\n", "scrape:\nlog: ~\ntargets:\n", "\ufeffweb: {}\n"])
def test_a_file_without_values_means_the_defaults(write: Callable[[str], Path], text: str) -> None:
    assert load(write(text)) == Config() == load(None)


def test_the_example_holds_every_key_at_its_default() -> None:
    document = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))

    assert load(EXAMPLE) == Config()
    assert set(paths_in_file(document)) == set(paths_in_model(Config))


def test_every_key_of_the_example_has_a_comment_above_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *[a-z_]+:", line)]

    bare = [lines[number] for number in keys if "#" not in lines[number - 1]]

    # The key shares the comment of its certificate, the list the example above it.
    assert bare == ["  key_file: null"]


def commented(section: str) -> str:
    """The lines of a section that the example has only in a comment."""
    found = re.search(rf"^# {section}:\n(?:#  .*\n)+", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    return re.sub(r"^# ", "", found[0], flags=re.MULTILINE)


def test_the_list_of_targets_in_the_example_is_valid(write: Callable[[str], Path]) -> None:
    config = load(write(commented("targets")))

    assert [target.name for target in config.all_targets] == ["chat", "code"]
    assert config.targets[0].args == ("vllm", "serve", "Qwen/Qwen3-8B", "--max-num-seqs", "128")
    assert config.targets[1].url == "https://code.example.com/vllm"


def test_the_sources_in_the_example_are_valid(write: Callable[[str], Path]) -> None:
    config = load(write(commented("discovery")))

    assert [place for place, _ in config.discovery.lists] == ["file.0", "http.0", "dns.0", "kubernetes.0"]
    assert config.all_targets == ()


def test_the_sources_in_the_document_about_discovery_are_valid(write: Callable[[str], Path]) -> None:
    blocks = re.findall(r"```yaml\n(discovery:.*?)```", (DOCS / "discovery.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        config = load(write(block.replace("bearer_token_file: /run/secrets/inventory-token", "bearer_token: x")))
        assert config.discovery.is_used


def test_every_key_is_described_and_has_a_default() -> None:
    lacking = [
        ".".join(path)
        for path, field in fields_of(Config)
        if not field.description or not field.description.endswith(".") or field.is_required()
    ]

    assert lacking == []


def test_values_are_kept_in_base_units(write: Callable[[str], Path]) -> None:
    config = load(
        write("scrape: {interval: 500ms, max_interval: 1m30s, max_body_size: 512KiB}\nprogress: {stall_after: 1h}")
    )

    assert config.scrape.interval == 0.5
    assert config.scrape.max_interval == 90
    assert config.scrape.max_body_size == 524288
    assert config.progress.stall_after == 3600


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        (":9000", None, 9000),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:9000", "::1", 9000),
        ("localhost:65535", "localhost", 65535),
    ],
)
def test_a_listen_address_splits_into_host_and_port(address: str, host: str | None, port: int) -> None:
    assert load(None, {"web.listen_address": address}).web.listen_address == (address,)
    assert split_listen_address(address) == (host, port)


def test_the_default_port_lies_where_nobody_else_is_expected() -> None:
    assert Config().web.listen_address == (f":{DEFAULT_PORT}",)
    assert 10000 < DEFAULT_PORT < 30000


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://host/prefix/", "https://host/prefix"),
        ("http://host.name", "http://host.name"),
    ],
)
def test_a_url_is_kept_without_the_slash_at_its_end(url: str, kept: str) -> None:
    assert load(None, {"vllm.url": url}).vllm.url == kept


def test_the_command_line_wins_over_the_file(write: Callable[[str], Path]) -> None:
    config = load(
        write("vllm: {url: 'http://a:1', metrics_path: /m}\n"), {"vllm.url": "http://b:2", "log.level": "debug"}
    )

    assert config.vllm.url == "http://b:2"
    assert config.vllm.metrics_path == "/m"
    assert config.log.level == "debug"


def test_the_command_line_replaces_a_mistake_in_the_file(write: Callable[[str], Path]) -> None:
    assert load(write("log:\n  level: loud\n"), {"log.level": "error"}).log.level == "error"


def test_the_one_target_has_no_name_and_listed_ones_replace_it(write: Callable[[str], Path]) -> None:
    config = load(write("targets: [{name: a}, {name: b}]\n"))

    assert [target.name for target in config.all_targets] == ["a", "b"]
    assert [target.name for target in Config().all_targets] == [None]


def test_files_are_found_from_the_folder_of_the_config(tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "token").write_text("s3cret", encoding="utf-8")

    issuer = Issuer(tmp_path)
    keys = f"bearer_token_file: token, unix_socket: run/vllm.sock, ca_file: {issuer.cert}"

    target = load(write(f"vllm: {{{keys}}}\n")).vllm

    assert target.bearer_token_file == tmp_path / "token"
    assert target.unix_socket == tmp_path / "run" / "vllm.sock"
    assert target.ca_file == issuer.cert


def test_a_config_shows_no_secret(write: Callable[[str], Path]) -> None:
    config = load(
        write(
            "vllm:\n  headers: {X-Token: s3cret}\n"
            "  args: vllm serve m --api-key s3cret s3cret2 --hf-token=s3cret --max-num-batched-tokens 2048 --port 80\n"
        )
    )

    assert "s3cret" not in repr(config) + str(config)
    assert config.vllm.headers["X-Token"].get_secret_value() == "s3cret"


def test_a_static_label_must_not_take_the_name_of_a_label_of_any_signal() -> None:
    used = {name for signal in SIGNALS.values() for name in signal.label_names}

    assert used - TAKEN_LABELS == set()


def test_equal_configs_are_equal_whatever_the_order_of_their_keys(write: Callable[[str], Path]) -> None:
    one = load(write("vllm: {labels: {a: x, b: y}, headers: {A: x}, args: [a]}\nscrape: {interval: 1m}\n"))
    same = load(write("scrape: {interval: 60s}\nvllm: {args: a, headers: {A: x}, labels: {b: y, a: x}}\n"))
    other = load(write("vllm: {labels: {a: x, b: y}, headers: {A: y}, args: [a]}\nscrape: {interval: 1m}\n"))

    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one.scrape == other.scrape
    assert len({one.vllm, same.vllm, other.vllm}) == 2


@given(st.integers(min_value=1, max_value=86_400_000))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def fields_of(model: type[BaseModel], parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, field in model.model_fields.items():
        yield (*parents, name), field
        if hasattr(field.annotation, "model_fields"):
            yield from fields_of(field.annotation, (*parents, name))


def paths_in_model(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [path for path, _ in fields_of(model)]


def paths_in_file(document: Any, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in document.items():
        yield (*parents, key)
        if isinstance(value, dict):
            yield from paths_in_file(value, (*parents, key))


def leaves(document: Any, parents: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*parents, key))
        else:
            yield (*parents, key), value
