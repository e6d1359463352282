"""Lists in Prometheus' format: what they contain, and a mistake is named with its place."""

from __future__ import annotations

import json

import pytest

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.discovery import entries
from vllm_sidecar.discovery.entries import MOST_ENTRIES, Entry, read_groups, read_json, read_yaml
from vllm_sidecar.discovery.errors import SourceError

GROUPS = [{"targets": ["a:1", "b:2"], "labels": {"team": "search"}}, {"targets": ["c:3"]}]


def test_every_address_is_an_entry_with_the_labels_of_its_group_and_of_the_source() -> None:
    origin = {"__meta_url": "http://list"}
    shared = (("__meta_url", "http://list"), ("team", "search"))

    assert read_groups(GROUPS, origin) == [
        Entry("a:1", shared),
        Entry("b:2", shared),
        Entry("c:3", (("__meta_url", "http://list"),)),
    ]


def test_a_label_of_the_source_cannot_be_forged() -> None:
    (entry,) = read_groups([{"targets": ["a:1"], "labels": {"__meta_filepath": "x"}}], {"__meta_filepath": "list"})

    assert entry.labels == (("__meta_filepath", "list"),)


def test_json_and_yaml_mean_the_same() -> None:
    text = json.dumps(GROUPS).encode()

    assert read_json(text) == read_yaml(text) == GROUPS


@pytest.mark.parametrize("groups", [None, [], [{}], [{"targets": None, "labels": None}], [{"labels": {"a": "b"}}]])
def test_nothing_is_an_empty_list(groups: object) -> None:
    assert read_groups(groups, {}) == []


@pytest.mark.parametrize(
    ("groups", "detail"),
    [
        ({"targets": []}, "the list: got {'targets': []}; allowed: a list of groups with targets and labels"),
        (["a:1"], "group 0: got 'a:1'; allowed: a mapping with targets and labels"),
        ([{}, {"target": ["a"]}], "group 1: got 'target'; allowed: the keys targets and labels"),
        ([{"targets": "a:1"}], "group 0: targets: got 'a:1'; allowed: a list of HOST:PORT"),
        ([{"targets": [8000]}], "group 0: targets: got 8000; allowed: text such as 10.0.0.7:8000"),
        ([{"labels": ["a"]}], "group 0: labels: got ['a']; allowed: a mapping of names to texts"),
        ([{"labels": {"a": 1}}], "group 0: labels: a: got 1; allowed: text (a number or true needs quotes to be text)"),
    ],
)
def test_another_form_is_a_mistake_with_its_place(groups: object, detail: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_groups(groups, {})

    assert (caught.value.reason, caught.value.detail) == (SourceReason.INVALID, detail)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"[NaN"])
def test_a_body_that_is_not_json_is_a_mistake(text: bytes) -> None:
    with pytest.raises(SourceError, match="invalid: not JSON"):
        read_json(text)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"[\xff]", r"not UTF-8 text \(byte 1\); save it as UTF-8"),
        (json.dumps(GROUPS).encode("utf-16"), "UTF-16 text, not UTF-8; save it as UTF-8"),
        (json.dumps(GROUPS).encode("utf-16-be"), "not JSON"),
        (json.dumps(GROUPS).encode("utf-32"), "UTF-16 text, not UTF-8"),
    ],
)
def test_a_list_that_is_not_utf_8_is_a_mistake_as_in_prometheus(text: bytes, detail: str) -> None:
    with pytest.raises(SourceError, match=f"invalid: {detail}"):
        read_json(text)


@pytest.mark.parametrize("text", [b"- targets: [a", b"\xff\xfe", b"a: &a [*a]", b"--- 1\n--- 2"])
def test_a_file_that_is_not_yaml_is_a_mistake(text: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        read_yaml(text)

    assert caught.value.reason is SourceReason.INVALID


def test_a_hundred_thousand_entries_are_refused_while_they_are_counted() -> None:
    with pytest.raises(SourceError, match=f"too_large: more than {MOST_ENTRIES} entries"):
        read_groups([{"targets": [f"10.0.0.1:{port}" for port in range(100_000)]}], {})


def test_a_small_file_cannot_expand_to_billions_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MOST_ENTRIES", 100)
    bomb = b"- &a {targets: [x, x, x, x, x, x, x, x, x, x]}\n" + b"- *a\n" * 1000

    with pytest.raises(SourceError, match="more than 100 entries"):
        read_groups(read_yaml(bomb), {})
