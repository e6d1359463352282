"""Which process of a /proc made by the test is the server."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_sidecar.vllm.probes.local_process import Listener, ProcessFinder, local_listener

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCAL = Listener("127.0.0.1", 8000)


def add(root: Path, pid: int, line: str, net: str | None = None) -> None:
    folder = root / str(pid)
    (folder / "ns").mkdir(parents=True, exist_ok=True)
    (folder / "cmdline").write_bytes("\0".join(shlex.split(line)).encode() + b"\0")
    if net is not None:
        (folder / "ns" / "net").symlink_to(net)


@pytest.mark.parametrize(
    ("url", "listener"),
    [
        ("http://127.0.0.1:8000", LOCAL),
        ("http://localhost:8000/prefix", Listener("localhost", 8000)),
        ("http://[::1]", Listener("::1", 80)),
        ("https://127.0.0.2", Listener("127.0.0.2", 443)),
        ("http://10.0.0.1:8000", None),
        ("http://vllm:8000", None),
        ("http://127.0.0.1:99999", None),
        ("", None),
    ],
)
def test_only_a_target_on_loopback_has_a_local_process(url: str, listener: Listener | None) -> None:
    assert local_listener(url, None) == listener


def test_a_target_on_a_unix_socket_is_local() -> None:
    assert local_listener("http://vllm", Path("/run/v.sock")) == Listener(uds=Path("/run/v.sock"))


def test_the_server_is_found_by_its_port_among_engines_workers_and_others(tmp_path: Path) -> None:
    add(tmp_path, 1, "/sbin/init")
    add(tmp_path, 10, "vllm serve other --port 8001")
    add(tmp_path, 11, "vllm bench serve --port 8000")
    add(tmp_path, 12, "vllm serve engine-only --headless")
    add(tmp_path, 20, "python3.11 /usr/bin/vllm serve mine -tp 2")
    (tmp_path / "21").mkdir()
    (tmp_path / "21" / "cmdline").write_bytes(b"VLLM::EngineCore" + b"\0" * 150)
    (tmp_path / "22").mkdir()
    found = ProcessFinder(LOCAL, tmp_path).find()
    assert found is not None
    assert found.flags == {"model": "mine", "tensor_parallel_size": 2}


def test_no_process_is_found_where_none_fits_or_proc_is_missing(tmp_path: Path) -> None:
    add(tmp_path, 10, "vllm serve other --port 8001")
    assert ProcessFinder(LOCAL, tmp_path).find() is None
    assert ProcessFinder(LOCAL, tmp_path / "nowhere").find() is None


def test_a_server_on_a_unix_socket_is_found_by_its_path(tmp_path: Path) -> None:
    add(tmp_path, 10, "vllm serve a --uds /run/a.sock")
    add(tmp_path, 11, "vllm serve b --uds /run/b.sock")
    found = ProcessFinder(Listener(uds=Path("/run/b.sock")), tmp_path).find()
    assert found is not None
    assert found.flags == {"model": "b"}
    assert ProcessFinder(LOCAL, tmp_path).find() is None


@pytest.mark.parametrize(
    ("host", "fits"), [("0.0.0.0", True), ("localhost", True), ("127.0.0.2", False), ("10.0.0.1", False)]
)
def test_the_host_must_be_one_that_the_target_can_reach(tmp_path: Path, host: str, fits: bool) -> None:
    add(tmp_path, 10, f"vllm serve a --host {host}")
    assert (ProcessFinder(LOCAL, tmp_path).find() is not None) is fits


def test_a_process_of_another_network_namespace_is_another_server(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "net").symlink_to("net:[1]")
    add(tmp_path, 10, "vllm serve theirs", net="net:[2]")
    add(tmp_path, 11, "vllm serve ours", net="net:[1]")
    found = ProcessFinder(LOCAL, tmp_path).find()
    assert found is not None
    assert found.flags == {"model": "ours"}


def test_a_server_whose_port_stands_in_a_config_file_is_taken_only_when_it_is_the_only_one(tmp_path: Path) -> None:
    add(tmp_path, 10, "vllm serve a --config a.yaml")
    finder = ProcessFinder(LOCAL, tmp_path)
    found = finder.find()
    assert found is not None
    assert found.flags == {"model": "a"}
    add(tmp_path, 11, "vllm serve b --config b.yaml")
    assert finder.find() is None
    add(tmp_path, 12, "vllm serve c")
    found = finder.find()
    assert found is not None
    assert found.flags == {"model": "c"}


def test_a_server_that_came_back_under_another_pid_is_found_again(tmp_path: Path) -> None:
    add(tmp_path, 10, "vllm serve a --seed 1")
    finder = ProcessFinder(LOCAL, tmp_path)
    assert finder.find() is not None
    add(tmp_path, 10, "sleep 5")
    add(tmp_path, 30, "vllm serve a --seed 2")
    found = finder.find()
    assert found is not None
    assert found.flags["seed"] == 2


def test_while_all_processes_are_searched_the_last_known_one_stays(tmp_path: Path) -> None:
    add(tmp_path, 20, "vllm serve mine --port 8000")
    finder = ProcessFinder(LOCAL, tmp_path)
    finder.find()
    seen = []

    class Watching(type(tmp_path)):  # type: ignore[misc]
        def iterdir(self) -> Iterator[Path]:
            seen.append(finder.pid)
            return iter(super().iterdir())

    finder._root = Watching(tmp_path)
    (tmp_path / "20" / "cmdline").unlink()
    add(tmp_path, 30, "vllm serve mine --port 8000")
    finder.find()
    assert (seen, finder.pid) == ([20], 30)
