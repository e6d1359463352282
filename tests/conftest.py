"""Fixtures of all tests: golden files, and a guard against traffic that leaves this machine."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from places import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["stub_nvml"]


# A machine that is busy must not fail a property. pytest --hypothesis-profile=all chooses the other one.
settings.register_profile("dev", deadline=None, max_examples=15)
settings.register_profile("all", deadline=None)
settings.load_profile("dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden from what the program gives now"
    )
    parser.addoption(
        "--record-mutants",
        action="store_true",
        help="play cases and mutants of rules that changed, and record in tests/alerts/verified.json that all hold",
    )
    parser.addoption(
        "--part",
        metavar="K/N",
        default="1/1",
        help="of the slow tests play the Kth of N parts: what mutants lead to is recorded, so a part each day will do",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests of other parts than the chosen one."""
    part, of = map(int, config.getoption("--part").split("/"))
    slow = [item for item in items if item.get_closest_marker("slow") and not item.get_closest_marker("e2e")]
    ours = sorted({_unit(item) for item in slow})[part - 1 :: of]
    left_out = {item.nodeid for item in slow if _unit(item) not in ours}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def _unit(item: pytest.Item) -> str:
    """Return what is played or left out as a whole: the mutants of one rule, or a file, whose tests share a play."""
    return item.nodeid if item.get_closest_marker("mutants") else item.nodeid.partition("::")[0]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name> byte for byte, or write it there with --update-golden."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_bytes(text.encode())
        assert path.exists(), f"no {path}: make it with pytest --update-golden, and read it"
        expected = path.read_bytes().decode()
        assert text == expected, f"{path} differs: if that is right, pytest --update-golden, and read the diff"

    return check


def _not_pure(*_: object, **__: object) -> None:
    """Take the place of what a test without a marker may not do."""
    pytest.fail("the test uses a socket or another process: mark it pytest.mark.io")


@pytest.fixture(autouse=True)
def _loopback_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines; without the marker io or e2e, any connection and any process."""
    if not any(request.node.get_closest_marker(name) for name in ("io", "e2e")):
        monkeypatch.setattr(socket.socket, "connect", _not_pure)
        monkeypatch.setattr(subprocess.Popen, "__init__", _not_pure)
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = ipaddress.ip_address(address[0].split("%")[0])
            if not (host.is_loopback or host.is_unspecified or host.is_multicast):  # TCP to multicast never leaves
                raise PermissionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
