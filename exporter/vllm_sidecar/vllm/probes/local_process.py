"""The vLLM API server of a local target, found in /proc by the port that it listens on -> its command line.

Requires a shared PID namespace (same host, or `shareProcessNamespace: true` of a pod). Best effort: unreadable entries
are skipped. Engine and worker processes never match, because vLLM overwrites their command line (`VLLM::EngineCore` and
blanks). With --api-server-count it does so for its API servers, too; their parent keeps its command line.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from vllm_sidecar.vllm.probes.arguments import Arguments, parse_arguments, server_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC: Final = Path("/proc")

_MAX_COMMAND = 131072
"""Most bytes that are read of one command line; 128 KiB is also Linux's limit for one argument."""

_ANYWHERE = frozenset({"", "0.0.0.0", "::", "localhost", "*"})  # noqa: S104 - names what a server may have bound


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a local target listens: a loopback `host` and `port`, or the path `uds` of a unix socket."""

    host: str = "localhost"
    port: int = 0
    uds: Path | None = None


def local_listener(url: str, unix_socket: Path | None) -> Listener | None:
    """Return the listening address of a target's process; None if the target is on another machine."""
    if unix_socket is not None:
        return Listener(uds=unix_socket)
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    host = parts.hostname or ""
    return Listener(host, port) if host == "localhost" or _is_loopback(host) else None


class ProcessFinder:
    """Finds the process of one listener repeatedly, starting where it was last found."""

    def __init__(self, listener: Listener, root: Path = PROC) -> None:
        self._listener = listener
        self._root = root
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """The process that the last complete search found, None if it found none; may be read by any thread."""
        return self._pid

    def find(self) -> Arguments | None:
        """Return the arguments of the server; None if no process fits, or more than one may fit."""
        pid, found = self._found()
        self._pid = pid  # set only now: during the search the last known process remains
        return found

    def _found(self) -> tuple[int, Arguments] | tuple[None, None]:
        known = self._pid
        if known is not None and (found := self._read(str(known))) is not None and self._fits(found):
            return known, found
        guesses: list[tuple[int, Arguments]] = []
        for pid in self._pids():
            found = self._read(pid)
            if found is None:
                continue
            if self._fits(found):
                return int(pid), found
            if found.port is None and found.uds is None:
                guesses.append((int(pid), found))
        # Without --port, a --config file may set the port; that file is not read, but a single such server is the
        # target.
        return guesses[0] if len(guesses) == 1 else (None, None)

    def _pids(self) -> Iterator[str]:
        try:
            names = sorted((entry.name for entry in self._root.iterdir() if entry.name.isdecimal()), key=int)
        except OSError:
            return
        yield from names

    def _read(self, pid: str) -> Arguments | None:
        try:
            with (self._root / pid / "cmdline").open("rb") as file:
                data = file.read(_MAX_COMMAND)
        except OSError:
            return None
        if b"vllm" not in data:
            return None
        argv = data.rstrip(b"\0").decode("utf-8", "replace").split("\0")
        arguments = server_arguments(argv)
        if arguments is None or not self._same_network(pid):
            return None
        parsed = parse_arguments(argv)
        return None if parsed.headless else parsed

    def _same_network(self, pid: str) -> bool:
        """Return whether a process can own our loopback port; True if unknown (another user's process)."""
        try:
            theirs = (self._root / pid / "ns/net").readlink()
            return theirs == (self._root / "self/ns/net").readlink()
        except OSError:
            return True

    def _fits(self, found: Arguments) -> bool:
        wanted = self._listener
        if wanted.uds is not None or found.uds is not None:
            return found.uds is not None and wanted.uds == Path(found.uds)
        if found.port != wanted.port:
            return False
        host = (found.host or "").strip("[]")
        if host in _ANYWHERE or wanted.host == "localhost":
            return host in _ANYWHERE or _is_loopback(host)
        return host == wanted.host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
