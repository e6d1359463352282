"""Lists from DNS: address records, SRV records, names that do not exist, and a name server that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fake_dns import AAAA, FAILED, SRV, A, FakeDns, name_server
from following_lists import names, running, until

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config import DnsList
from vllm_sidecar.discovery import dns_names
from vllm_sidecar.discovery.dns_names import DnsSource
from vllm_sidecar.discovery.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.io

NAME = "vllm.llm.svc.cluster.local"


@pytest.fixture
async def dns() -> AsyncIterator[FakeDns]:
    async with name_server() as server:
        yield server


def source(dns: FakeDns, *hosts: str, **more: Any) -> DnsSource:
    given = {"names": list(hosts), "servers": [dns.address], "refresh": "10ms", **more}
    return DnsSource("dns.0", DnsList.model_validate(given), lambda: None)


async def test_each_address_is_a_target_at_the_port(dns: FakeDns) -> None:
    dns.records[NAME, A] = ["10.0.0.8", "10.0.0.7"]
    found = source(dns, NAME, port=9000, target={"labels": {"service_name": "{__meta_dns_name}"}})

    await found.refresh()

    assert names(found) == ["10.0.0.7:9000", "10.0.0.8:9000"]
    assert found.listed.targets[0].labels == {"service_name": NAME}


async def test_addresses_of_ipv6_are_in_brackets(dns: FakeDns) -> None:
    dns.records[NAME, AAAA] = ["fd00::7"]
    found = source(dns, NAME, type="AAAA")

    await found.refresh()

    assert [target.url for target in found.listed.targets] == ["http://[fd00::7]:8000"]


async def test_srv_records_have_names_and_ports(dns: FakeDns) -> None:
    dns.records["_http._tcp.vllm", SRV] = ["0 50 8001 vllm-1.llm.", "0 50 8000 vllm-0.llm."]
    found = source(dns, "_http._tcp.vllm", type="SRV", target={"name": "{__meta_dns_srv_record_target}"})

    await found.refresh()

    assert names(found) == ["vllm-0.llm", "vllm-1.llm"]
    assert found.listed.targets[1].url == "http://vllm-1.llm:8001"


async def test_records_that_change_are_seen(dns: FakeDns) -> None:
    dns.records[NAME, A] = ["10.0.0.7"]
    async with running(source(dns, NAME)) as found:
        await until(lambda: names(found) == ["10.0.0.7:8000"])
        dns.records[NAME, A] = ["10.0.0.8"]
        await until(lambda: names(found) == ["10.0.0.8:8000"])


async def test_a_name_server_that_fails_keeps_the_list_and_other_names_still_change(dns: FakeDns) -> None:
    dns.records[NAME, A] = ["10.0.0.7"]
    found = source(dns, NAME)
    await found.refresh()
    dns.code = FAILED

    with pytest.raises(SourceError) as caught:
        await found.refresh()

    assert caught.value.reason is SourceReason.UNREACHABLE
    assert caught.value.detail.startswith(f"{NAME}: ")
    assert names(found) == ["10.0.0.7:8000"]


async def test_a_name_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, dns: FakeDns) -> None:
    monkeypatch.setattr(dns_names, "TIMEOUT", 0.1)
    monkeypatch.setattr(FakeDns, "datagram_received", lambda *_: None)

    with pytest.raises(SourceError, match=r"unreachable: .*: no answer within 0\.1 s"):
        await source(dns, NAME).refresh()


async def test_a_name_that_has_no_such_record_is_an_empty_list(dns: FakeDns) -> None:
    dns.records[NAME, A] = ["10.0.0.7"]
    found = source(dns, NAME)
    await found.refresh()
    dns.records[NAME, A] = []

    await found.refresh()

    assert names(found) == []
    assert found.has_answered


async def test_a_name_that_does_not_exist_has_no_servers_and_is_a_failure(dns: FakeDns) -> None:
    dns.records = {(NAME, A): ["10.0.0.7"], ("other", A): ["10.0.0.9"]}
    found = source(dns, NAME, "other")
    await found.refresh()
    del dns.records[NAME, A]

    with pytest.raises(SourceError) as caught:
        await found.refresh()

    assert caught.value.reason is SourceReason.NOT_FOUND
    assert names(found) == ["10.0.0.9:8000"]
