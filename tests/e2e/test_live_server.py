"""Against a vLLM server that is really there; skipped unless VLLM_SIDECAR_TEST_URL names one."""

from __future__ import annotations

import os
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sidecar_process import started

from vllm_sidecar.catalog import UPSTREAM
from vllm_sidecar.catalog.types import Kind

URL = os.environ.get("VLLM_SIDECAR_TEST_URL", "")

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not URL, reason="VLLM_SIDECAR_TEST_URL names no vLLM server")]

SCOPE = ("model_name", "engine")

FULL = {"VLLM_SIDECAR_METRICS_PROFILE": "full"}


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one_poll(base: str) -> tuple[dict, dict]:
    """Return what vLLM said and what the sidecar made of it, both of the same poll."""
    for _ in range(20):
        before, body, after = get(f"{base}/metrics"), get(f"{base}/debug/last-scrape"), get(f"{base}/metrics")
        polls = [samples(text)["vllm_sidecar_polls_total", (("source", "vllm"),)] for text in (before, after)]
        if polls[0] == polls[1]:
            return samples(body), samples(before)
    raise AssertionError("no two scrapes fell between two polls")


def test_every_counter_and_histogram_equals_the_servers_own_to_the_last_digit() -> None:
    with started("--vllm.url", URL, variables=FULL) as (_, base):
        time.sleep(2.0)
        for _ in range(5):
            theirs, ours = one_poll(base)
            compared = 0
            for entry in UPSTREAM:
                signal = entry.signal
                kind = signal.kind
                suffixes = ("_bucket", "_sum", "_count") if kind is Kind.HISTOGRAM else ("",)
                for suffix in suffixes:
                    source = next(
                        (
                            f"vllm:{a}{suffix}"
                            for a in entry.aliases
                            if any(k[0] == f"vllm:{a}{suffix}" for k in theirs)
                        ),
                        None,
                    )
                    if source is None or signal.name == "requests_waiting":
                        continue
                    expected = {labels: value for (name, labels), value in theirs.items() if name == source}
                    found = {labels: value for (name, labels), value in ours.items() if name == signal.metric + suffix}
                    assert found == expected, source
                    compared += len(found)
            assert compared > 250
            time.sleep(1.0)


def test_every_family_of_the_checklist_is_present() -> None:
    with started("--vllm.url", URL, variables=FULL) as (_, base):
        time.sleep(2.0)
        _, ours = one_poll(base)
    missing = {
        dict(labels)["signal"]: value for (name, labels), value in ours.items() if name.endswith("signal_missing")
    }
    assert missing == dict.fromkeys((e.signal.name for e in UPSTREAM if e.checklist), 0.0)
