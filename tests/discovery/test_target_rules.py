"""From an entry to a target: templates, labels, patterns, and what a hostile list can try."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.catalog.discovery import EntryState
from vllm_sidecar.config import TAKEN_LABELS, DiscoveredTarget, NamedTarget
from vllm_sidecar.discovery.entries import Entry
from vllm_sidecar.discovery.target_rules import MOST_CHARACTERS, MOST_LABELS, Refusal, TargetRules


def apply(settings: dict[str, Any], address: str = "10.0.0.7:8000", **labels: str) -> NamedTarget | Refusal:
    rules = TargetRules(DiscoveredTarget.model_validate(settings))
    return rules.apply(Entry(address, tuple(sorted(labels.items()))))


def target(settings: dict[str, Any], address: str = "10.0.0.7:8000", **labels: str) -> NamedTarget:
    found = apply(settings, address, **labels)
    assert isinstance(found, NamedTarget), found
    return found


def test_without_settings_an_address_is_a_target_of_that_name() -> None:
    found = target({})

    assert (found.name, found.url, found.metrics_path) == ("10.0.0.7:8000", "http://10.0.0.7:8000", "/metrics")
    assert found.labels == {}
    assert found.is_same_server(NamedTarget(name="x", url="http://10.0.0.7:8000"))


def test_an_entry_may_name_scheme_and_path_as_in_prometheus() -> None:
    found = target({}, __scheme__="https", __metrics_path__="/vllm/metrics")

    assert (found.url, found.metrics_path) == ("https://10.0.0.7:8000", "/vllm/metrics")


def test_texts_are_filled_with_labels_and_one_that_is_missing_is_empty() -> None:
    settings = {
        "name": "{__meta_dns_name}/{zone}",
        "url": "https://{__address__}/{zone}/v1",
        "metrics_path": "/{zone}/metrics",
        "labels": {"zone_id": "z-{zone}", "nothing": "{missing}"},
    }

    found = target(settings, __meta_dns_name="vllm", zone="a")

    assert (found.name, found.url, found.metrics_path) == ("vllm/a", "https://10.0.0.7:8000/a/v1", "/a/metrics")
    assert found.labels == {"zone_id": "z-a", "zone": "a"}


def test_the_value_of_a_label_is_not_filled_again() -> None:
    assert target({"name": "{a}"}, a="{b}", b="x").name == "{b}"


def test_a_pod_is_named_by_its_namespace_and_name() -> None:
    assert target({}, __meta_kubernetes_namespace="llm", __meta_kubernetes_pod_name="chat-0").name == "llm/chat-0"


def test_labels_of_the_entry_are_labels_of_the_target_unless_they_are_internal_or_empty() -> None:
    found = target({}, team="search", __meta_url="http://list", __other="x", empty="")

    assert found.labels == {"team": "search"}


@pytest.mark.parametrize("name", sorted(TAKEN_LABELS))
def test_a_reserved_label_gets_the_prefix_that_prometheus_uses(name: str) -> None:
    assert target({}, **{name: "x"}).labels == {f"exported_{name}": "x"}


def test_the_configuration_overrides_and_removes_labels_of_the_entry() -> None:
    found = target({"labels": {"team": "{team}-x", "exported_job": ""}}, team="search", job="chat")

    assert found.labels == {"team": "search-x"}


def test_credentials_and_arguments_are_those_of_the_source() -> None:
    found = target({"headers": {"X-Team": "a"}, "insecure_skip_verify": True, "args": "vllm serve x"})

    assert found.headers["X-Team"].get_secret_value() == "a"
    assert found.insecure_skip_verify
    assert found.args == ("vllm", "serve", "x")


@pytest.mark.parametrize(
    ("settings", "is_kept"),
    [
        ({"keep": {"team": "search"}}, True),
        ({"keep": {"team": "sea*"}}, True),
        ({"keep": {"team": ["ads", "s?arch"]}}, True),
        ({"keep": {"team": "search", "stage": "prod"}}, False),
        ({"keep": {"team": "sea"}}, False),
        ({"keep": {"missing": ""}}, True),
        ({"keep": {"missing": "?*"}}, False),
        ({"drop": {"team": "search"}}, False),
        ({"drop": {"team": "ads", "missing": ""}}, False),
        ({"drop": {"team": "[s]earch"}}, True),
        ({"keep": {"team": "s*"}, "drop": {"team": "*h"}}, False),
    ],
)
def test_keep_needs_all_labels_and_drop_one_and_only_star_and_question_mark_are_special(
    settings: dict[str, Any], is_kept: bool
) -> None:
    found = apply(settings, team="search")

    assert isinstance(found, NamedTarget) is is_kept
    assert is_kept or found == Refusal("10.0.0.7:8000", EntryState.FILTERED, "left out by keep or drop")


@pytest.mark.parametrize(
    ("address", "labels", "why"),
    [
        ("http://a:1", {}, "got 'http://a:1'; allowed: HOST:PORT, without http:// and path"),
        ("", {}, "got ''; allowed: HOST:PORT"),
        ("a:99999", {}, "url: got 'http://a:99999'; allowed: http://HOST[:PORT][/PREFIX] or https://..."),
        ("a\nb:1", {}, "got 'a\\nb:1'; allowed: HOST:PORT"),
        ("a\x00b:1", {}, "name: got 'a\\x00b:1'; allowed: text on one line, without control characters"),
        ("user:secret@a:1", {}, "got '***@a:1'; allowed: HOST:PORT"),
        ("a:1/x?y=z", {}, "got 'a:1/x?y=z'; allowed: HOST:PORT"),
        ("a:1", {"__scheme__": "file"}, "url: got 'file://a:1'; allowed: http://HOST[:PORT][/PREFIX] or https://..."),
        ("a:1", {"__metrics_path__": "m"}, "metrics_path: got 'm'; allowed: a path that starts with / and has no"),
        ("a:1", {"team": "a\x00b"}, "label team: got 'a\\x00b'; allowed: text on one line, without control characters"),
        ("a:1", {"te-am": "a"}, "label: got 'te-am'; allowed: a label name of letters, digits and _"),
        ("a:1", {"team": "x" * (MOST_CHARACTERS + 1)}, "label 'team': longer than 1024 characters"),
        ("a" * 2000, {}, "label '__address__': longer than 1024 characters"),
        ("a:1", {f"l{n}": "x" for n in range(MOST_LABELS + 1)}, "68 labels; allowed: at most 64"),
    ],
)
def test_a_hostile_entry_is_refused_with_the_reason(address: str, labels: dict[str, str], why: str) -> None:
    found = apply({}, address, **labels)

    assert isinstance(found, Refusal)
    assert found.state is EntryState.INVALID
    assert found.why.startswith(why)


def test_an_entry_without_the_labels_of_the_name_is_refused() -> None:
    found = apply({"name": "{team}"})

    assert isinstance(found, Refusal)
    assert found.why == "name: got ''; allowed: text; the entry has none of the labels in target.name"


def test_a_password_in_an_address_is_not_repeated() -> None:
    found = apply({}, "user:secret@a:1")

    assert isinstance(found, Refusal)
    assert "secret" not in found.why + found.address


@given(st.text(max_size=30), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_any_entry_is_a_valid_target_or_a_refusal(address: str, labels: dict[str, str]) -> None:
    found = TargetRules(DiscoveredTarget()).apply(Entry(address, tuple(sorted(labels.items()))))

    if isinstance(found, NamedTarget):
        again = NamedTarget.model_validate(
            {"name": found.name, "url": found.url, "metrics_path": found.metrics_path, "labels": dict(found.labels)}
        )
        assert again == found
