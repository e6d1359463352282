"""The catalog: every signal has a name of its own, a sentence, and a source that exists or existed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import captured
import pytest
from places import TESTS
from rows import for_each

from vllm_sidecar.catalog import DERIVED, GPU_FIELDS, HTTP_REQUESTS, OPEN_FDS, SIGNALS, TRANSFERS, UPSTREAM
from vllm_sidecar.catalog.types import PREFIX, RESERVED_LABELS, Derived, Kind, Scope, Signal, Unit, Upstream
from vllm_sidecar.catalog.upstream import ALSO_READ, KNOWN_PATTERNS, KV_TRANSFERS

if TYPE_CHECKING:
    from vllm_sidecar.catalog.upstream import Transfers

FAMILIES = {
    name: kind
    for name, kind, _, _ in (
        line.split() for line in (TESTS / "vllm_families.txt").read_text().splitlines() if not line.startswith("#")
    )
}
READ = (*UPSTREAM, HTTP_REQUESTS, OPEN_FDS)
ALIASES = [(entry, alias) for entry in UPSTREAM for alias in entry.aliases]
ALIAS_IDS = [alias for _, alias in ALIASES]

NEEDS_V0_BEFORE_0_9 = "no capture of a v0 before 0.9.2, and its speculation does not run on CPUs"
NEEDS_CONNECTOR = "needs a KV connector, which needs a GPU or a second server"
NOT_RECORDED = {
    "cpu_cache_usage_perc": NEEDS_V0_BEFORE_0_9,
    "gpu_prefix_cache_hit_rate": NEEDS_V0_BEFORE_0_9,
    "spec_decode_draft_acceptance_rate": NEEDS_V0_BEFORE_0_9,
    "spec_decode_efficiency": NEEDS_V0_BEFORE_0_9,
    "time_in_queue_requests": NEEDS_V0_BEFORE_0_9,
    "kv_offload_cpu_cache_usage_perc": NEEDS_CONNECTOR,
    "kv_offload_load_bytes_total": NEEDS_CONNECTOR,
    "kv_offload_load_time_total": NEEDS_CONNECTOR,
    "kv_offload_store_bytes_total": NEEDS_CONNECTOR,
    "kv_offload_store_time_total": NEEDS_CONNECTOR,
    "nixl_num_failed_transfers_total": NEEDS_CONNECTOR,
    "nixl_num_kv_expired_reqs_total": NEEDS_CONNECTOR,
    "nixl_xfer_time_seconds": NEEDS_CONNECTOR,
    "num_requests_kv_fetch_by_stage": NEEDS_CONNECTOR,
    "engine_healthy": "needs --enable-fault-tolerance of a vLLM after 0.33",
    "corrupted_requests_total": "needs VLLM_COMPUTE_NANS_IN_LOGITS=1",
    "kv_block_idle_before_evict_seconds": "needs --kv-cache-metrics",
    "kv_block_lifetime_seconds": "needs --kv-cache-metrics",
    "kv_block_reuse_gap_seconds": "needs --kv-cache-metrics",
    "prompt_tokens_recomputed_total": "only 0.16 to 0.19 had it",
    "tool_call_parser_invocations_total": "needs a model that calls tools",
}
"""Names that no capture has samples of, and why; a capture that has one makes its line here wrong."""


def recorded() -> set[str]:
    """Names of vLLM's own samples in all captures, those of histograms without their suffix."""
    lines = (line for name in captured.TEXT_NAMES for line in captured.vllm_lines(captured.text(name)))
    names = {re.split(r"[{ ]", line.removeprefix("vllm:"), maxsplit=1)[0] for line in lines}
    return names | {name.removesuffix("_bucket") for name in names}


def sample_names(signal: Signal) -> set[str]:
    """All names that the signal's samples and its family have in either format."""
    metric = signal.metric
    base = metric.removesuffix({Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(signal.kind, ""))
    parts = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.SUMMARY: ("_sum", "_count")}.get(signal.kind, ())
    return {base, metric, *(metric + part for part in parts)}


def test_no_two_signals_share_a_name_in_either_format() -> None:
    owners: dict[str, str] = {}
    for name, signal in SIGNALS.items():
        assert name == signal.name
        for sample in sample_names(signal):
            assert owners.setdefault(sample, name) == name, sample


def test_no_name_of_vllm_belongs_to_two_signals() -> None:
    names = [alias for entry in READ for alias in entry.aliases]
    assert len(names) == len(set(names))
    assert not set(names) & set(ALSO_READ)


@for_each(("entry", "alias"), ALIASES, ids=ALIAS_IDS)
def test_a_name_of_vllm_was_in_some_release_with_the_type_of_its_signal(entry: Upstream, alias: str) -> None:
    assert FAMILIES.get(alias) == entry.signal.kind.value


@for_each("each", KV_TRANSFERS, ids=lambda each: f"{each.name} {each.result}")
def test_a_name_that_counts_transfers_was_in_some_release(each: Transfers) -> None:
    family = each.name.removesuffix("_count")
    assert FAMILIES.get(family) == ("counter" if family == each.name else "histogram")
    assert each.result in {"completed", "failed", "expired", "refused"}


def test_each_name_of_vllm_is_in_a_capture_or_there_is_a_reason_why_not() -> None:
    assert {alias for _, alias in ALIASES} - recorded() == set(NOT_RECORDED)


@for_each(("entry", "alias"), ALIASES, ids=ALIAS_IDS)
def test_each_name_of_vllm_alone_gives_its_signal(entry: Upstream, alias: str) -> None:
    signal = entry.signal
    pairs = ",".join(f'{label}="x"' for label in signal.label_names)
    if signal.kind is Kind.HISTOGRAM:
        body = "".join(f'vllm:{alias}_bucket{{{pairs},le="{edge}"}} 2\n' for edge in ("1.0", "+Inf"))
    else:
        body = f'vllm:cache_config_info{{engine="x",block_size="16"}} 1\nvllm:{alias}{{{pairs}}} 1\n'
    found = captured.read(body)
    assert signal.name in found.sources
    assert found.sources[signal.name] == (f"vllm:{alias}",)
    ((group, reading),) = found.groups.items()
    assert group.scope is signal.scope
    named = {key if isinstance(key, str) else key[0] for part in reading for key in part}
    # What a KV connector counts under names of its own is added up as well.
    assert named - {TRANSFERS.signal.name} == {signal.name}
    assert (TRANSFERS.signal.name in named) is (alias in TRANSFERS.aliases)


def test_every_family_that_vllm_ever_had_is_known() -> None:
    kinds = "".join(f"# TYPE vllm:{name} {kind}\n" for name, kind in FAMILIES.items())
    samples = "".join(f"vllm:{name} 1\n" for name, kind in FAMILIES.items() if kind != "histogram")
    buckets = "".join(f'vllm:{name}_bucket{{le="+Inf"}} 1\n' for name, kind in FAMILIES.items() if kind == "histogram")
    found = captured.read(kinds + samples + buckets)
    assert found.dialect.prefix == "vllm:"
    assert found.unknown == ()


@for_each("pattern", KNOWN_PATTERNS)
def test_each_pattern_of_known_families_matches_one(pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in FAMILIES)


@for_each("name", sorted(SIGNALS))
def test_a_help_text_is_a_sentence_of_its_own(name: str) -> None:
    text = SIGNALS[name].help
    assert re.match(r"[A-Z1-9]|vLLM ", text)
    assert text.endswith(".")
    assert "\n" not in text
    assert not re.search(r"\s{2}|\.\.$", text)
    assert [other for other, signal in SIGNALS.items() if signal.help == text] == [name]


@for_each("name", sorted(SIGNALS))
def test_a_signal_keeps_the_rules_of_names_and_labels(name: str) -> None:
    signal = SIGNALS[name]
    assert signal.metric == PREFIX + name
    assert ":" not in signal.metric
    assert len(set(signal.label_names)) == len(signal.label_names)
    assert not RESERVED_LABELS & set(signal.label_names)
    assert ("{window}" in signal.help) <= (signal.why_not_promql is not None)


@for_each("name", sorted(SIGNALS))
def test_units_are_in_names_and_names_in_units(name: str) -> None:
    """Every name that ends like a unit has that unit, so dashboards can format it."""
    stem = name.removesuffix("_total").removesuffix("_info")
    suffixes = {unit.suffix: unit for unit in Unit if unit.suffix}
    longest = max((suffix for suffix in suffixes if stem.endswith("_" + suffix)), key=len, default=None)
    if SIGNALS[name].kind is not Kind.INFO:
        assert SIGNALS[name].unit is (suffixes[longest] if longest else Unit.NONE)


@for_each("entry", DERIVED, ids=[entry.signal.name for entry in DERIVED])
def test_a_derived_signal_reads_signals_that_vllm_or_a_gpu_gives(entry: Derived) -> None:
    assert set(entry.reads) <= {read.signal.name for read in (*READ, *GPU_FIELDS)}
    assert len(set(entry.reads)) == len(entry.reads)


@for_each("entry", DERIVED, ids=[entry.signal.name for entry in DERIVED])
def test_a_derived_signal_says_why_prometheus_could_not_compute_it(entry: Derived) -> None:
    why = entry.signal.why_not_promql
    assert why
    assert re.fullmatch(r".{40,}\.", why)


def test_only_derived_signals_say_why_prometheus_could_not_compute_them() -> None:
    derived = {entry.signal.name for entry in DERIVED}
    assert {name for name, signal in SIGNALS.items() if signal.why_not_promql} == derived


def test_a_derived_signal_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="does not explain why"):
        replace(DERIVED[0], signal=replace(DERIVED[0].signal, why_not_promql=None))


GOOD = Signal("queue_seconds", Kind.GAUGE, Unit.SECONDS, "A sentence.", Scope.ENGINE, ("reason",))
BAD = {
    "has characters": {"name": "queue-seconds"},
    "if and only if it is a counter": {"name": "queue_seconds_total"},
    "if and only if it is an info": {"name": "seconds_info", "unit": Unit.NONE},
    "does not end in its unit": {"unit": Unit.BYTES},
    "reserved label": {"labels": ("job",)},
    "not a sentence": {"help": "No sentence"},
}


@for_each(("why", "change"), BAD.items(), ids=BAD)
def test_a_signal_that_breaks_a_naming_rule_is_refused(why: str, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=why):
        replace(GOOD, **change)


def test_a_counter_must_end_in_total() -> None:
    with pytest.raises(ValueError, match="if and only if it is a counter"):
        replace(GOOD, kind=Kind.COUNTER)
