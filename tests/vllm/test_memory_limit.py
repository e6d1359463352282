"""The largest body that is read under a memory limit, and where the limit is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from loopback import BODY, answer, failure, fetch, raw_server, says

from vllm_sidecar.catalog.reasons import Reason
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.vllm.memory_limit import LEAST_BYTES, limit_of, most_body_bytes, most_engines
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from pathlib import Path

MIB = 2**20
V1 = "5:memory:/kubepods/pod/a\n4:cpu,cpuacct:/kubepods/pod/a\n0::/\n"
V2 = "0::/kubepods/pod/a\n"


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return folder


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (V2, {"kubepods/pod/a/memory.max": "67108864", "kubepods/memory.max": "max"}, 64 * MIB),
        (V2, {"kubepods/pod/a/memory.max": "max", "kubepods/pod/memory.max": "134217728"}, 128 * MIB),
        (V2, {"memory.max": "67108864"}, 64 * MIB),  # a container: its own group is the root
        (V2, {"kubepods/pod/a/memory.max": "max"}, None),
        (V2, {}, None),
        (V1, {"memory/kubepods/pod/a/memory.limit_in_bytes": "67108864"}, 64 * MIB),
        (V1, {"memory/memory.limit_in_bytes": "67108864"}, 64 * MIB),
        (V1, {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {"memory.max": "67108864"}, None),
    ],
)
def test_the_lowest_limit_of_a_cgroup_and_those_above_it_counts(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    assert limit_of(groups, written(tmp_path, files)) == limit


def test_a_body_may_take_a_24th_of_what_the_limit_leaves() -> None:
    assert most_body_bytes(None) is None
    assert most_body_bytes(64 * MIB) == MIB // 6
    assert most_body_bytes(60 * MIB) == most_body_bytes(MIB) == LEAST_BYTES
    assert most_body_bytes(444 * MIB) == 16 * MIB


def test_the_engines_that_are_read_fit_into_the_limit() -> None:
    limits = (None, MIB, 58 * MIB, 64 * MIB, 128 * MIB, 1024 * MIB)
    assert [most_engines(limit, 256) for limit in limits] == [256, 8, 8, 16, 101, 256]


def test_a_server_with_more_engines_than_fit_keeps_the_first_ones() -> None:
    lines = "".join(f'vllm:num_requests_running{{engine="{n}",model_name="m"}} 1.0\n' for n in range(40))
    text = f"# TYPE vllm:num_requests_running gauge\n{lines}"
    found = Normalizer(16).normalize(DifferentialParser().parse(text.encode()))
    assert len(found.engines) == 16
    assert found.limits["engines"]


@pytest.mark.io
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_not_safe_under_the_limit_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr("vllm_sidecar.vllm.client.memory_limit", lambda: 64 * MIB)
    large = BODY + b"# a\n" * (MIB // 8)
    sent = answer(large)
    if chunked:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        sent = head + f"{len(large):x}\r\n".encode() + large + b"\r\n0\r\n\r\n"
    async with raw_server(says(sent)) as url:
        error = await failure(url, max_body_size=16 * MIB)
    assert error.reason is Reason.TOO_LARGE
    assert "larger than 174762 bytes, more than is safe with this memory limit: raise it" in error.detail
    async with raw_server(says(answer(BODY))) as url:
        assert (await fetch(url)).body == BODY
