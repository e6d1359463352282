"""Servers from DNS: the A and AAAA records of names, such as headless Services, and SRV records."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiodns

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.discovery.entries import Entry
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm_sidecar.config import DnsList

TIMEOUT = 10.0
"""Seconds for one lookup, with its retries."""
NO_DATA = aiodns.error.ARES_ENODATA
NO_NAME = aiodns.error.ARES_ENOTFOUND


class DnsSource(Source):
    """The servers behind some names."""

    def __init__(self, place: str, settings: DnsList, changed: Callable[[], None]) -> None:
        super().__init__(place, settings.target, settings.refresh, changed)
        self._settings = settings
        self._found: dict[str, Sequence[Entry]] = {}

    async def refresh(self) -> float:
        """Look up all names; one whose lookup fails keeps its entries, unless the answer is that it does not exist."""
        error: SourceError | None = None
        # A new resolver each time, because the name servers of this machine may have changed.
        resolver = aiodns.DNSResolver(nameservers=self._settings.servers or None)
        try:
            for name in self._settings.names:
                try:
                    self._found[name] = await self._look_up(resolver, name)
                except SourceError as failed:
                    error = error or failed
                    if failed.reason is SourceReason.NOT_FOUND:
                        self._found[name] = ()
        finally:
            await resolver.close()
        entries = [entry for name in self._settings.names for entry in self._found.get(name, ())]
        self.use(entries, error)
        return self._refresh

    async def _look_up(self, resolver: aiodns.DNSResolver, name: str) -> Sequence[Entry]:
        kind = self._settings.type
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await resolver.query_dns(name, kind)
        except TimeoutError:
            raise SourceError(SourceReason.UNREACHABLE, f"{name}: no answer within {TIMEOUT:g} s") from None
        except aiodns.error.DNSError as error:
            number, text = error.args[0], error.args[-1]
            if number == NO_DATA:  # the name exists without such a record: a Service whose pods are gone
                return ()
            reason = SourceReason.NOT_FOUND if number == NO_NAME else SourceReason.UNREACHABLE
            raise SourceError(reason, f"{name}: {text}") from None
        return sorted(self._entry(name, record.data) for record in answer.answer if _is_wanted(record, kind))

    def _entry(self, name: str, data: Any) -> Entry:
        labels = {"__meta_dns_name": name}
        if self._settings.type == "SRV":
            host = data.target.rstrip(".")
            labels |= {"__meta_dns_srv_record_target": host, "__meta_dns_srv_record_port": str(data.port)}
            return Entry(f"{host}:{data.port}", tuple(sorted(labels.items())))
        host = f"[{data.addr}]" if ":" in data.addr else data.addr
        return Entry(f"{host}:{self._settings.port}", tuple(labels.items()))


def _is_wanted(record: Any, kind: str) -> bool:
    """Return whether a record of an answer is of the type that was asked for, not a CNAME on the way to it."""
    return bool(aiodns.query_type_map[kind] == record.type)
