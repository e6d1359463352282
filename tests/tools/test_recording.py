"""Recordings: byte for byte what the server answered, small, without secrets, and readable when they were cut off."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import recorded
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.tools.recording.differences import applied, body_of, difference, from_json, lines_of
from vllm_sidecar.tools.recording.events import METRICS, Exchange, Flags, RecordingError
from vllm_sidecar.tools.recording.flags import command_line
from vllm_sidecar.tools.recording.hashing import Hasher
from vllm_sidecar.tools.recording.privacy import reduced
from vllm_sidecar.tools.recording.reader import Reader, is_recording
from vllm_sidecar.tools.recording.writer import Writer
from vllm_sidecar.vllm.normalize import Normalizer
from vllm_sidecar.vllm.probes.arguments import parse_arguments
from vllm_sidecar.vllm.probes.endpoints import parse_models, parse_server_info, parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.series.readings import Reading

CAPTURES = sorted((TESTS / "captures").glob("*.prom"))
ENDPOINTS = TESTS / "captures" / "endpoints"


def passed_on(before: bytes, after: bytes) -> bytes:
    """Return the later body as a reader of the difference gets it."""
    changed = difference(lines_of(before), lines_of(after))
    if changed is None:
        return after
    line = json.loads(json.dumps(changed._asdict()))
    return body_of(applied(lines_of(before), from_json(line)))


numbers = st.one_of(
    st.integers(0, 10**9).map(lambda n: f"{n}.0"),
    st.integers(0, 10**15).map(str),
    st.floats(allow_nan=True).map(repr),
    st.sampled_from(("1e+06", "1.234567e+06", "9.99999e+05", "NaN", "+Inf", "-0.0", "007", "")),
)
sample_lines = st.builds(
    lambda name, value: f"{name} {value}", st.sampled_from(("a", 'b{c="d e"}', "c_total")), numbers
)
bodies = st.lists(st.one_of(sample_lines, st.text(max_size=8)), max_size=12).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)


@given(bodies, bodies)
def test_any_body_is_restored_from_any_other(before: bytes, after: bytes) -> None:
    assert passed_on(before, after) == after


@pytest.mark.parametrize("after", CAPTURES, ids=lambda path: path.stem)
def test_bodies_of_real_servers_are_restored(after: Path) -> None:
    for before in (CAPTURES[0], after):
        assert passed_on(before.read_bytes(), after.read_bytes()) == after.read_bytes()
    body = after.read_bytes()
    assert difference(lines_of(body), lines_of(body)) == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("7.0", "9.0", 2),
        ("7", "9", 2),
        ("999999.0", "1.000001e+06", 2),
        ("1.000001e+06", "2e+06", 999_999),
        ("0.1", "0.2", "0.2"),
        ("7.0", "8", "8"),
        ("7.0", "NaN", "NaN"),
    ],
)
def test_a_counter_is_stored_as_its_growth(old: str, new: str, expected: int | str) -> None:
    changed = difference([f"a {old}"], [f"a {new}"])
    assert changed is not None
    assert changed.changes == [0, expected]


def test_a_new_series_costs_its_line_and_not_the_body() -> None:
    before = [f'a{{b="{number}"}} 1.0' for number in range(100)]
    after = [*before[:50], 'a{b="new"} 1.0', *before[50:99], 'a{b="99"} 2.0']
    changed = difference(before, after)
    assert changed == ([(50, 50, ['a{b="new"} 1.0'])], [100, 1])


@pytest.mark.parametrize(
    "line",
    [
        {"changes": [0]},
        {"changes": [-1, 2]},
        {"changes": [9, 2]},
        {"changes": [0, 2.5]},
        {"changes": ["0", 1]},
        {"edits": [[0, 9, []]], "changes": []},
        {"edits": [[0, 1]], "changes": []},
        {"edits": "x", "changes": []},
        {},
    ],
)
def test_a_difference_that_does_not_fit_is_an_error(line: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        applied(["a 1.0", "b 2.0"], from_json(line))


def events(path: Path) -> list[Exchange]:
    return [each for each in Reader(path) if isinstance(each, Exchange)]


def test_a_recording_holds_every_answer_and_failure_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    written = list(recorded.polls("healthy 10s -> crash-loop 60s -> lora-thrash 60s", 120))
    assert any(each.reason is Reason.REFUSED for each in written)
    assert len({each.response.body.count(b"\n") for each in written if each.response}) > 1, "some lines must appear"
    recorded.write(path, iter(written))
    assert events(path) == written
    assert Reader(path).head == recorded.head()


def test_several_servers_share_a_recording(tmp_path: Path) -> None:
    first, second = (list(recorded.polls("healthy", 5, number, seed=number + 1)) for number in (0, 1))
    written = [each for pair in zip(first, second, strict=True) for each in pair]
    path = recorded.write(tmp_path / "r.gz", iter(written), "a", "b")
    assert events(path) == written


def test_a_recording_that_was_cut_off_is_a_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    clock = [0.0]
    with Writer(path, clock=lambda: clock[0]) as writer:
        writer.head(recorded.head())
        written = list(recorded.polls("healthy", 40))
        for each in written:
            clock[0] = each.at
            writer.write(each)
        running = path.read_bytes()
    half = tmp_path / "half.gz"
    half.write_bytes(running)
    reader = Reader(half)
    found = list(reader)
    assert found == written[: len(found)]
    assert len(found) >= 35, "at most the last five seconds may be missing"
    assert "ends early" in reader.cut_off
    for size in range(200, len(running), 997):
        half.write_bytes(running[:size])
        try:
            found = list(Reader(half))
        except RecordingError as error:
            assert "no complete line" in str(error)  # noqa: PT017 - the first bytes hold no line
        else:
            assert found == written[: len(found)]


def test_a_damaged_recording_is_read_up_to_the_damage(tmp_path: Path) -> None:
    written = list(recorded.polls("healthy", 200))
    path = recorded.write(tmp_path / "r.gz", iter(written))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    reader = Reader(path)
    try:
        found = list(reader)
    except RecordingError as error:
        assert "is not one of a recording" in str(error)  # noqa: PT017 - the damage may also unpack to text
    else:
        assert found == written[: len(found)]
        assert reader.cut_off


def saved(path: Path, *texts: str) -> Path:
    path.write_bytes(gzip.compress("".join(text + "\n" for text in texts).encode()))
    return path


HEAD = '{"recording":1,"started":1.0,"servers":[{"name":"","url":""}],"interval":1,"hashed":false,"program":"x"}'


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), "holds no complete line"),
        (("[]",), "is not a recording"),
        (("not json",), "is not a recording"),
        (('{"recording":2}',), "has version 2 of the format, and this program reads 1"),
        (('{"recording":1}',), "its first line is not that of a recording"),
        ((HEAD, "{}"), "line 2 is not one of a recording"),
        ((HEAD, '{"at":1,"took":0,"seconds":0,"type":"","date":null,"changes":[]}'), "a body that is missing"),
        ((HEAD, '{"at":1,"took":0,"failed":"bad luck","detail":""}'), "line 2 is not one of a recording"),
        ((HEAD, '{"server":7,"at":1,"took":0}'), "server 7 of 1"),
        ((HEAD, "x"), "line 2 is not one of a recording"),
    ],
)
def test_what_is_not_a_recording_is_named(texts: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "r.gz", *texts)
    with pytest.raises(RecordingError, match=expected) as caught:
        list(Reader(path))
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    plain = tmp_path / "metrics.prom"
    plain.write_text("a 1\n")
    with pytest.raises(RecordingError, match="is not a recording; a recording is made with: vllm-sidecar record"):
        Reader(plain)
    assert not is_recording(plain)
    with pytest.raises(RecordingError, match="No such file"):
        is_recording(tmp_path / "missing")
    with pytest.raises(RecordingError, match="exists: choose another file, or add --force"):
        Writer(plain)
    with pytest.raises(RecordingError, match="cannot create"):
        Writer(tmp_path / "missing" / "r.gz")


def test_a_full_disk_ends_a_recording_with_its_reason() -> None:
    writer = Writer(Path("/dev/full"), replace=True)
    with pytest.raises(RecordingError, match="cannot write /dev/full: No space left on device"):
        writer.head(recorded.head())
    with pytest.raises(RecordingError, match="No space left"):
        writer.close()


def test_an_hour_of_a_busy_server_stays_below_5_mb(tmp_path: Path) -> None:
    seconds = 120
    path = recorded.write(tmp_path / "r.gz", recorded.polls("queue-buildup", seconds))
    hour = path.stat().st_size * 3600 / seconds
    assert hour < 5e6, f"{hour / 1e6:.1f} MB"


@pytest.mark.parametrize("path", sorted(ENDPOINTS.glob("*server_info*")), ids=lambda path: path.stem)
def test_of_server_info_only_the_flags_are_recorded(path: Path) -> None:
    body = path.read_bytes()
    kept = reduced("/server_info", body)
    assert parse_server_info(kept).flags == parse_server_info(body).flags
    assert len(kept) < 3000


def test_secrets_of_server_info_are_not_recorded() -> None:
    answer = {
        "vllm_config": {
            "model_config": {"model": "http://user:secret@host/x?token=secret", "hf_token": "secret"},
            "kv_transfer_config": {"kv_connector": "Redis", "kv_connector_extra_config": {"url": "redis://:secret@r"}},
        },
        "vllm_env": {"VLLM_API_KEY": "secret"},
    }
    kept = reduced("/server_info", json.dumps(answer).encode())
    assert b"secret" not in kept
    assert parse_server_info(kept).flags["kv_transfer_config"] == "Redis"


@pytest.mark.parametrize("body", [b"", b"<html>token=secret", b"[]", b'{"error": "secret"}'])
def test_answers_of_others_are_not_recorded(body: bytes) -> None:
    for path in ("/version", "/v1/models", "/server_info", "/load", "/health"):
        assert b"secret" not in reduced(path, body)


def test_models_and_version_survive() -> None:
    for parse, path, name in ((parse_models, "/v1/models", "v1_models"), (parse_version, "/version", "version")):
        for file in sorted(ENDPOINTS.glob(f"*{name}*")):
            assert parse(reduced(path, file.read_bytes())) == parse(file.read_bytes())


ARGUMENTS = [
    *("vllm", "serve", "meta/x", "--max-num-seqs", "256", "--no-enable-prefix-caching", "-tp", "2"),
    *("--speculative-config", '{"method":"eagle","model":"a/b","num_speculative_tokens":3}'),
    *("--chat-template", "/a/b.jinja", "--gpu-memory-utilization", "0.9", "--served-model-name", "a", "b"),
    *("--kv-transfer-config", '{"kv_connector":"Nixl"}', "--quantization", "fp8", "--api-key", "secret"),
]


@pytest.mark.parametrize("arguments", [ARGUMENTS, ["vllm", "serve", "x", "--speculative-config", '{"method":"ngram"}']])
def test_flags_become_a_command_line_and_flags_again(arguments: list[str]) -> None:
    flags = parse_arguments(arguments).flags
    assert flags
    assert parse_arguments(command_line(flags)).flags == flags
    assert command_line({}) == ()


def test_flags_are_recorded(tmp_path: Path) -> None:
    flags = Flags(0, 5.0, ("--max-num-seqs=256",))
    path = recorded.write(tmp_path / "r.gz", [*recorded.polls("healthy", 2), flags])
    assert list(Reader(path))[-1] == flags


def hashed_bodies(hasher: Hasher) -> Iterator[tuple[str, str]]:
    for capture in CAPTURES:
        text = capture.read_text()
        yield text, "\n".join(map(hasher.line, text.split("\n")))


def test_hashed_recordings_hold_no_name_and_the_same_numbers() -> None:
    hasher = Hasher()
    for text, hashed in hashed_bodies(hasher):
        names = {name for part in text.split('model_name="')[1:] if (name := part.partition('"')[0])}
        assert not any(name in hashed for name in names), names
        assert [line.rpartition(" ")[2] for line in hashed.split("\n")] == [
            line.rpartition(" ")[2] for line in text.split("\n")
        ]
    assert hasher.line('a{model_name="x",le="0.5"} 1') == f'a{{model_name="{hasher.text("x")}",le="0.5"}} 1'
    assert hasher.text("x") != Hasher().text("x"), "the key must differ from recording to recording"
    assert hasher.text("a,b") == f"{hasher.text('a')},{hasher.text('b')}"
    card = {"data": [{"id": "x", "root": "x", "parent": None, "max_model_len": 10}]}
    assert parse_models(reduced("/v1/models", json.dumps(card).encode(), hasher)).models[0].id == hasher.text("x")
    line = command_line(
        {"model": "secret", "max_num_seqs": 5, "dtype": "bfloat16", "speculative_config": "secret"}, hasher
    )
    assert line == (f"--model={hasher.text('secret')}", "--max-num-seqs=5", "--dtype=bfloat16")


def test_labels_that_somebody_added_and_parts_of_routes_are_hashed() -> None:
    hasher = Hasher()
    config = 'block_size="16",cache_dtype="fp8_e5m2"'
    hashed = hasher.line(f'vllm:cache_config_info{{{config},customer="acme",x_model="a/b"}} 1')
    assert config in hashed
    assert "acme" not in hashed
    assert "a/b" not in hashed
    route = hasher.line('http_requests_total{handler="/acme/v1/chat/completions",method="POST",status="2xx"} 4')
    assert route == (
        f'http_requests_total{{handler="/{hasher.text("acme")}/v1/chat/completions",method="POST",status="2xx"}} 4'
    )


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.stem)
def test_a_hashed_body_means_the_same(capture: Path) -> None:
    body = capture.read_bytes()
    hashed = body_of(list(map(Hasher().line, lines_of(body))))
    plain, found = (Normalizer().normalize(DifferentialParser().parse(each), None) for each in (body, hashed))
    assert (found.missing, found.unknown, found.dialect) == (plain.missing, plain.unknown, plain.dialect)
    counted = [sorted(map(_numbers, each.groups.values())) for each in (plain, found)]
    assert counted[0] == counted[1]


def _numbers(reading: Reading) -> tuple[list[float], list[float], list[str]]:
    return sorted(reading.counters.values()), sorted(reading.gauges.values()), sorted(reading.histograms)


def test_a_poll_and_a_probe_are_distinguished(tmp_path: Path) -> None:
    probe = Exchange(0, 1.5, 0.01, "/load", recorded.answer(b'{"server_load": 3}', 1.5, "application/json"))
    again = Exchange(0, 2.5, 0.01, "/load", recorded.answer(b'{"server_load": 3}', 2.5, "application/json"))
    closed = Exchange(0, 2.6, 0.01, "/server_info", None, Reason.HTTP_404, "status 404")
    path = recorded.write(tmp_path / "r.gz", [probe, again, closed])
    assert events(path) == [probe, again, closed]
    assert all(each.path != METRICS for each in events(path))
    assert sum("server_load" in line for line in recorded.lines(path)) == 1, "an equal answer is not repeated"
