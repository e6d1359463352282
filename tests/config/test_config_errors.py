"""Mistakes in a config: each is answered with one line that says where, what was given and what is allowed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from vllm_sidecar.config import TAKEN_LABELS, ConfigError, load, parse_duration
from vllm_sidecar.config.config_errors import MOST_MISTAKES
from vllm_sidecar.config.document import MOST_VALUES
from vllm_sidecar.config.regular_files import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

BAD = sorted((TESTS / "configs").glob("bad-*.yaml"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def answers(path: Path | None, overrides: Mapping[str, object] | None = None) -> tuple[str, ...]:
    """Return the mistakes in a config, none when it is good."""
    try:
        load(path, overrides or {})
    except ConfigError as error:
        return error.mistakes
    return ()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_file_with_one_mistake_gets_exactly_the_answer_that_its_last_line_says(path: Path) -> None:
    answer = path.read_text(encoding="utf-8").rpartition("# Answer: ")[2].strip()
    expected = answer.replace("{folder}", str(path.parent)).replace("{reserved}", ", ".join(sorted(TAKEN_LABELS)))

    assert answers(path) == (expected,)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(write: Callable[[str], Path]) -> None:
    path = write(
        "web:\n  enable_lifecycle: nowhere\n  on: 1\n"
        "scrape:\n  interval: 2m\n  interval: 90s\n"
        "vllm: {url: ftp://a}\n"
        "targets:\n  - {name: a, url: ftp://b}\n  - {name: a}\n"
    )

    assert answers(path, {"log.level": "loud"}) == (
        "command line: log.level: got \"loud\"; allowed: 'debug', 'info', 'warning' or 'error'",
        'line 2: web.enable_lifecycle: got "nowhere"; allowed: true or false',
        (
            "line 3: web.on: unknown key; allowed: listen_address, systemd_socket, config_file, telemetry_path, "
            "max_connections, allowed_hosts, enable_lifecycle"
        ),
        'line 4: scrape.max_interval: got "60s" (the default); allowed: at least interval (1m30s)',
        "line 6: scrape.interval: given twice; it is also on line 5",
        'line 7: vllm.url: got "ftp://a"; allowed: http://HOST[:PORT][/PREFIX] or https://...',
        "line 8: targets: got a list; allowed: either vllm (in the file, by flag or environment) or targets, not both",
        'line 9: targets.0.url: got "ftp://b"; allowed: http://HOST[:PORT][/PREFIX] or https://...',
        'line 10: targets.1.name: got "a"; allowed: a name that targets.0 does not have',
    )


def test_of_thousands_of_mistakes_the_first_are_listed_and_the_others_are_counted(write: Callable[[str], Path]) -> None:
    path = write("".join(f"key{number}: 1\n" for number in range(MOST_MISTAKES + 2000)))

    found = answers(path)

    assert len(found) == MOST_MISTAKES + 1
    assert found[-1] == "2,000 more mistakes are not listed"


def test_the_error_names_the_file_on_every_line(write: Callable[[str], Path]) -> None:
    path = write("a: 1\nb: 2\n")

    with pytest.raises(ConfigError) as caught:
        load(path)

    assert [line.split(": line")[0] for line in str(caught.value).splitlines()] == [str(path), str(path)]


def test_a_file_that_is_not_there_is_one_mistake(tmp_path: Path) -> None:
    assert answers(tmp_path / "none.yaml") == ("cannot be read: No such file or directory",)


def test_a_file_that_is_not_utf8_is_one_mistake(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"log: \xff\n")

    assert answers(path) == ("is not UTF-8 text (byte 5)",)


def test_control_characters_are_one_mistake(write: Callable[[str], Path]) -> None:
    (mistake,) = answers(write("log: \x01\n"))

    assert mistake.startswith("not valid YAML: ")
    assert "\n" not in mistake


def test_a_key_with_a_line_break_is_told_on_one_line(write: Callable[[str], Path]) -> None:
    assert answers(write('log: {"a\\nb": 1}\n')) == ("line 1: log.a\\nb: unknown key; allowed: level, format",)


@pytest.mark.parametrize(
    "tagged", ["!!int x", "!!float x", "!!bool maybe", "!!timestamp x", "!!int ''", "!!binary \u00e9"]
)
def test_a_tag_that_does_not_fit_its_value_is_one_mistake_with_its_line(
    write: Callable[[str], Path], tagged: str
) -> None:
    (mistake,) = answers(write(f"web: {{}}\nlog: {tagged}\n"))

    assert mistake.startswith("line 2, column 6: not valid YAML: ")


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "a0: &a0 {k: x}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30)),
    ],
    ids=["lists", "merges"],
)
def test_a_few_lines_that_stand_for_billions_of_values_are_one_mistake(write: Callable[[str], Path], text: str) -> None:
    assert answers(write(text)) == (
        f"holds more than {MOST_VALUES} values, counting each alias as often as it is used",
    )


def test_a_key_that_stands_for_billions_of_values_is_a_mistake(write: Callable[[str], Path]) -> None:
    lines = "".join(f"a{n}: &a{n} {{? *a{n - 1} : *a{n - 1}}}\n" for n in range(1, 40))

    assert answers(write("a0: &a0 {k: x}\n" + lines)) != ()


def test_a_named_pipe_is_refused_at_once_in_place_of_the_file_and_of_those_that_it_names(
    tmp_path: Path, write: Callable[[str], Path]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    why = "Not a regular file; a pipe could block, and is empty when it is read again"
    assert answers(pipe) == (f"cannot be read: {why}",)
    assert answers(write("vllm: {bearer_token_file: pipe}")) == (
        f'line 1: vllm.bearer_token_file: got "pipe"; allowed: a file that can be read ({pipe}: {why})',
    )


def test_a_file_that_is_too_large_for_a_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" * (MOST_BYTES + 1))

    assert answers(path) == (f"cannot be read: Larger than {MOST_BYTES} bytes",)


@given(st.binary(max_size=60) | st.text(alphabet="abn\\:-[]{}&*!|>'\"#% \n?,1.", max_size=40).map(str.encode))
def test_no_file_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(body)

    assert [answer for answer in answers(path) if "\n" in answer or not answer] == []


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1", "http://a b", "http://a\n", "//a", "http://a:0"]
)
def test_a_url_without_a_usable_host_is_refused(url: str) -> None:
    (mistake,) = answers(None, {"vllm.url": url})

    assert mistake.endswith("; allowed: http://HOST[:PORT][/PREFIX] or https://...")
    assert "\n" not in mistake


def test_a_value_below_something_that_is_no_section_leaves_that_mistake(write: Callable[[str], Path]) -> None:
    assert answers(write("log: 3\n"), {"log.level": "error"}) == (
        "line 1: log: got 3; allowed: a mapping with the keys level, format",
    )


def test_a_url_on_the_command_line_excludes_targets_in_the_file(write: Callable[[str], Path]) -> None:
    assert answers(write("targets: [{name: a}]\n"), {"vllm.url": "http://b:2"}) == (
        "line 1: targets: got a list; allowed: either vllm (in the file, by flag or environment) or targets, not both",
    )


def test_no_mistake_shows_a_secret() -> None:
    shown = [mistake for path in BAD for mistake in answers(path)]

    assert any("s3cret" in path.read_text(encoding="utf-8") for path in BAD)
    assert [mistake for mistake in shown if "s3cret" in mistake or "12345" in mistake] == []


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1s", "1.5s", "1s1m", "25h", "1e3s", " 1s", "1S", "\u0661s", "9" * 40 + "d"]
)
def test_text_that_is_no_duration_of_a_day_at_most_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration(text)


MEGABYTE = 1_000_000
HOSTILE = {
    "nested lists": "[" * MEGABYTE,
    "nested mappings": "{a: " * (MEGABYTE // 4),
    "nested items": "- " * (MEGABYTE // 2),
    "nested keys": "? " * (MEGABYTE // 2),
    "a list without end": "a: [" + "1," * (MEGABYTE // 2),
    "one key again and again": "a: 1\n" * (MEGABYTE // 5),
    "many keys": "".join(f"a{number}: 1\n" for number in range(MEGABYTE // 10)),
    "many anchors": "".join(f"- &a{number} x\n" for number in range(MEGABYTE // 12)),
    "a long number": "limits: {adapters: " + "9" * (MEGABYTE - 100) + "}",
    "a long tag": "!" * MEGABYTE,
    "a long key": "a" * MEGABYTE + ": 1",
    "no text": "\0" * 1000,
    "C1 controls": "a: \x80",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_short_lines_and_seconds(name: str, tmp_path: Path) -> None:
    """It would otherwise be half a minute of CPU, in which a reload slows down every poll."""
    file = tmp_path / "c.yaml"
    file.write_text(HOSTILE[name], encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert time.process_time() - began < 15.0
    assert all(len(mistake) < 500 for mistake in caught.value.mistakes), caught.value.mistakes
