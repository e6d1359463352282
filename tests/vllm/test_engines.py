"""Engines are told apart by the labels that are no dimension of a family, and named after what tells them apart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import captured
import pytest
from captured import read
from hypothesis import given
from hypothesis import strategies as st
from labelled_bodies import engine_body

from vllm_sidecar.catalog.types import Scope
from vllm_sidecar.exposition import DifferentialParser
from vllm_sidecar.series.readings import Engine, Group
from vllm_sidecar.vllm.engines import MAX_EXTRA_LABELS, MAX_NAME, MAX_SHAPES, EngineIdentity, Engines, shown_labels
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from vllm_sidecar.series.readings import Readings

BASELINE = captured.text(captured.BASELINE)
FAMILIES = frozenset(("generation_tokens_total", "num_requests_running", "time_to_first_token_seconds_bucket"))


def identity(model: str = "m", **labels: str) -> EngineIdentity:
    return EngineIdentity(model, tuple(sorted(labels.items())))


def names(engines: Engines, *found: EngineIdentity, served: str | None = None) -> list[str | None]:
    """Return the names of the engines behind identities that have the same families; None for those refused."""
    assigned = engines.assign(dict.fromkeys(found, FAMILIES), served)
    return [assigned.engines[one].group.labels[1] if one in assigned.engines else None for one in found]


def several(line: str, *labels: str) -> str:
    return "".join(f"{line.replace('}', f',{more}}}')}\n" for more in labels)


def engines_of(found: Readings) -> dict[tuple[str, ...], dict[str, str]]:
    return {group.labels: dict(engine.labels) for group, engine in found.engines.items()}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (({},), ["0"]),
        (({"engine": "0"}, {"engine": "1"}), ["0", "1"]),
        (({"stage": "0", "replica": "0"}, {"stage": "0", "replica": "1"}), ["0-0", "0-1"]),
        (({"engine": "1", "worker_id": "694d9c", "dynamo_namespace": "prod"},), ["1"]),
        (({"engine": "0", "worker_id": "a"}, {"engine": "1", "worker_id": "b"}), ["0", "1"]),
        (({"engine": "0", "worker_id": "a"}, {"engine": "0", "worker_id": "b"}), ["0-a", "0-b"]),
        (({"WorkerId": "long-one", "ReplicaId": "x"}, {"WorkerId": "long-two", "ReplicaId": "y"}), ["0-x", "0-y"]),
        (({"cluster": "a", "zone": "1"}, {"cluster": "a", "zone": "2"}), ["0-1", "0-2"]),
        (
            ({"rack": "a", "slot": "1"}, {"rack": "a", "slot": "2"}, {"rack": "b", "slot": "1"}),
            ["0-a-1", "0-a-2", "0-b-1"],
        ),
    ],
    ids=[
        "no label at all",
        "data parallel",
        "stages and replicas",
        "labels that stay the same",
        "labels that follow the engine",
        "one label that differs",
        "the shortest of two that differ",
        "a custom label",
        "two labels that only tell together",
    ],
)
def test_an_engine_is_named_by_what_tells_it_apart(labels: tuple[dict[str, str], ...], expected: list[str]) -> None:
    assert names(Engines(), *(identity(**one) for one in labels)) == expected


def test_engines_of_two_models_may_have_one_name() -> None:
    assert names(Engines(), identity("a", version="1"), identity("b", version="1")) == ["1", "1"]


def test_an_engine_keeps_its_name_when_another_joins() -> None:
    engines, first, second = Engines(), identity(worker="a"), identity(worker="b")
    assert names(engines, first) == ["0"]
    assert names(engines, first, second) == ["0", "0-b"]
    assert names(engines, second, first) == ["0-b", "0"]
    assert names(engines, second) == ["0-b"]


def test_an_engine_that_came_in_place_of_another_takes_its_name() -> None:
    engines = Engines()
    assert [names(engines, identity(worker=worker)) for worker in "abcd"] == [["0"]] * 4


def test_engines_that_answer_in_turn_are_told_apart_once_one_is_back() -> None:
    engines, first, second = Engines(), identity(worker="a"), identity(worker="b")
    seen = [names(engines, one)[0] for one in (first, second, first, second, first, second)]
    assert seen == ["0", "0", "0", "0-b", "0", "0-b"]


def test_an_engine_that_is_back_while_another_has_its_name_gets_one_of_its_own() -> None:
    engines, first, second = Engines(), identity(worker="a"), identity(worker="b")
    names(engines, first)
    names(engines, second)
    assert names(engines, first, second) == ["0-a", "0"]
    assert names(engines, second, first) == ["0", "0-a"]


def test_a_family_with_fewer_labels_is_of_the_one_engine_that_has_them() -> None:
    whole, part = identity(engine="1", worker="a"), identity()
    assigned = Engines().assign({whole: FAMILIES, part: {"num_preemptions_total"}})
    assert assigned.engines[part] == assigned.engines[whole]
    assert assigned.engines[whole].group.labels == ("m", "1")


def test_a_family_with_fewer_labels_is_of_none_of_several_engines() -> None:
    found = {identity(engine=n): FAMILIES for n in "01"} | {identity(): {"num_preemptions_total"}}
    assigned = Engines().assign(found)
    assert set(assigned.engines) == {identity(engine="0"), identity(engine="1")}
    assert assigned.refused == {identity(): "unattributed"}


def test_a_new_label_on_one_family_does_not_cost_the_engine_its_others() -> None:
    found = {identity(engine="0"): FAMILIES}
    found |= {identity(engine="0", priority=priority): {"request_success_total"} for priority in ("high", "low")}
    assigned = Engines().assign(found)
    assert {one.labels: engine.group.labels[1] for one, engine in assigned.engines.items()} == {
        (("engine", "0"),): "0",
        (("engine", "0"), ("priority", "high")): "0-high",
        (("engine", "0"), ("priority", "low")): "0-low",
    }


def test_a_model_that_nothing_names_is_the_served_one_or_nobodys() -> None:
    assert names(Engines(), identity("", engine="0"), served="m") == ["0"]
    assert names(Engines(), identity("", engine="0")) == [None]
    assigned = Engines().assign({identity("", engine="0"): FAMILIES}, "m")
    assert [engine.group.labels for engine in assigned.by_group.values()] == [("m", "0")] if assigned.by_group else []


def test_engines_beyond_the_limit_are_refused_and_those_that_are_known_stay() -> None:
    engines = Engines(limit=2)
    assert names(engines, identity(engine="5"), identity(engine="6")) == ["5", "6"]
    assigned = engines.assign(dict.fromkeys((identity(engine=n) for n in "123456"), FAMILIES))
    assert {one.labels[0][1] for one in assigned.engines} == {"5", "6"}
    assert set(assigned.refused.values()) == {"too_many_engines"}
    assert len(assigned.refused) == 4


def test_names_are_remembered_for_so_many_engines_and_no_more() -> None:
    engines = Engines(limit=2)
    for n in range(50):
        names(engines, identity(engine="0", worker=str(n)), identity(engine="1", worker=str(n)))
    assert len(engines._names) <= 8
    assert len(engines._holders) <= 8


def test_labels_that_names_are_made_of_are_bounded_and_engines_stay_apart() -> None:
    engines = Engines()
    found = names(engines, *(identity(**{f"label_{n}": "x"}) for n in range(100)))
    assert len(engines._extra_labels) == MAX_EXTRA_LABELS
    given = [name for name in found if name]
    assert len(set(given)) == len(given) >= MAX_SHAPES


def test_a_long_or_odd_value_is_cut_and_cleaned() -> None:
    (long,) = names(Engines(), identity(stage="x" * 100))
    assert long
    assert re.fullmatch(r"x{31}-[0-9a-f]{8}", long)
    assert len(long) == MAX_NAME
    assert names(Engines(), identity(stage='a "b"\n/豆')) == ["a_b_"]


LABELS = st.dictionaries(
    st.sampled_from(["engine", "stage", "replica", "worker", "cluster", "豆"]),
    st.sampled_from(["0", "1", "0-1", "1-0", "a b", "a_b", "豆", "x" * 50, "x" * 50 + "y"]),
    max_size=4,
)
IDENTITIES = st.lists(st.tuples(st.sampled_from(["m", "n"]), LABELS), min_size=1, max_size=12)


@given(st.lists(IDENTITIES, min_size=1, max_size=4))
def test_no_labels_make_one_engine_of_two(polls: list[list[tuple[str, dict[str, str]]]]) -> None:
    engines = Engines()
    for poll in polls:
        found = {identity(model, **labels) for model, labels in poll}
        assigned = engines.assign(dict.fromkeys(found, FAMILIES))
        groups = [assigned.engines[one].group for one in assigned.engines]
        assert len(set(groups)) == len(groups)
        assert all(len(group.labels[1]) <= MAX_NAME for group in groups)
        assert assigned.engines.keys() | assigned.refused.keys() == found


@given(st.lists(IDENTITIES, min_size=2, max_size=5))
def test_an_engine_that_stays_keeps_its_name(polls: list[list[tuple[str, dict[str, str]]]]) -> None:
    engines, before = Engines(), {}
    for poll in polls:
        found = {identity(model, **labels) for model, labels in poll}
        now = engines.assign(dict.fromkeys(found, FAMILIES)).engines
        assert all(now[one].group == before[one].group for one in before.keys() & now.keys())
        before = now


@given(IDENTITIES)
def test_no_value_of_a_body_is_of_two_engines(engines: list[tuple[str, dict[str, str]]]) -> None:
    every = {identity(model, **labels): (model, labels) for model, labels in engines}
    lines = ""
    for n, (model, labels) in enumerate(every.values()):
        ascii_only = {name: value for name, value in labels.items() if name.isascii()}
        lines += engine_body(model_name=model, **ascii_only).replace(" 3\n", f" {2**n}\n")
    found = Normalizer().normalize(DifferentialParser().parse(lines.encode()))
    running = [reading.gauges["requests_running"] for group, reading in found.groups.items() if group.labels]
    assert {value.bit_count() for value in map(int, running)} <= {1}
    assert len(set(running)) == len(running)


def test_original_labels_are_shown_under_their_own_names_where_these_are_free() -> None:
    labels = {
        "engine": "0",
        "pod": "p",
        "zone": "z",
        "exported_zone": "y",
        "cluster": "c" * 500,
        "__x": "1",
        "a.b": "1",
    }
    engine = Engine(Group(Scope.ENGINE, ("m", "0-p")), labels)
    assert shown_labels(engine, {"engine", "model_name", "pod", "zone"}) == {
        "exported_engine": "0",
        "exported_pod": "p",
        "exported_zone": "y",
        "exported_exported_zone": "z",
        "cluster": "c" * 128,
        "exported___x": "1",
    }
    assert shown_labels(Engine(Group(Scope.ENGINE, ("m", "0")), {"engine": "0"}), {"engine"}) == {}


def test_the_stages_of_a_pipeline_are_engines_and_its_own_families_are_not() -> None:
    lines = "".join(engine_body(model_name="m", stage=stage, replica="0") for stage in "012")
    found = read('vllm_omni:num_requests_running{model_name="m"} 9\nvllm_omni:prompt_tokens_total 5\n' + lines)
    assert engines_of(found) == {("m", f"{n}-0"): {"stage": n, "replica": "0"} for n in "012"}
    assert {reading.gauges["requests_running"] for group, reading in found.groups.items() if group.labels} == {3.0}
    assert found.sources["time_to_first_token_seconds"] == ("vllm:time_to_first_token_seconds",)
    assert (found.unknown, found.unknown_labels, dict(found.anomalies)) == ((), (), {})


def test_the_models_of_triton_are_named_by_their_own_label() -> None:
    found = read(engine_body(model="llama", version="1") + engine_body(model="qwen", version="1"))
    assert engines_of(found) == {(m, "1"): {"model": m, "version": "1"} for m in ("llama", "qwen")}


def test_labels_that_the_catalog_does_not_know_are_named_and_make_no_engine_longer() -> None:
    lines = "".join(engine_body(model_name="m", engine=n, worker_id="a1", dynamo_namespace="prod") for n in "01")
    lines += 'vllm:admission_rejections_total{model_name="m",reason="x",tenant="t"} 1\n'
    found = read(lines + 'http_requests_total{app="a",handler="/v1/x",method="POST",status="2xx"} 1\n')
    assert list(engines_of(found)) == [("m", "0"), ("m", "1")]
    assert found.unknown_labels == ("app", "dynamo_namespace", "tenant", "worker_id")


def test_every_recorded_server_has_labels_that_the_catalog_knows() -> None:
    for name in captured.TEXT_NAMES:
        found = read(captured.text(name))
        assert (found.unknown_labels, found.unattributed) == ((), ()), name


def test_a_body_without_a_models_name_is_read_under_the_served_one() -> None:
    exposition = DifferentialParser().parse(engine_body(engine="0").encode())
    normalizer = Normalizer()
    refused = normalizer.normalize(exposition)
    assert refused.groups == {}
    assert refused.anomalies == {"unattributed": 5}
    assert "vllm:num_requests_running" in refused.unattributed
    found = normalizer.normalize(exposition, "served")
    assert engines_of(found) == {("served", "0"): {"engine": "0"}}
    assert found.anomalies == {}


def test_the_cache_configuration_is_that_of_the_engine_it_names() -> None:
    lines = "".join(engine_body(model_name="m", engine=n, cluster="c") for n in "01")
    configs = "".join(f'vllm:cache_config_info{{engine="{n}",num_gpu_blocks="{n}00"}} 1\n' for n in "01")
    assert {group.labels: config["num_gpu_blocks"] for group, config in read(lines + configs).cache_config.items()} == {
        ("m", "0"): "000",
        ("m", "1"): "100",
    }


def test_a_cache_configuration_of_nobody_is_of_no_engine() -> None:
    lines = "".join(engine_body(model_name="m", engine=n) for n in "01")
    (group,) = read(lines + 'vllm:cache_config_info{block_size="16"} 1\n').cache_config
    assert group.labels == ("", "0")


def test_the_adapters_of_two_stages_are_taken_together() -> None:
    line = 'vllm:lora_requests_info{stage="%s",max_lora="2",running_lora_adapters="%s",waiting_lora_adapters=""} %d\n'
    found = read(line % (0, "old", 5) + line % (0, "a", 9) + line % (1, "b", 7)).adapters
    assert found == (("a", "b"), (), 2)


def test_a_name_under_two_prefixes_is_read_once() -> None:
    ray = captured.map_samples(
        BASELINE, lambda line: captured.add_label(line.replace("vllm:", "ray_vllm_", 1), 'WorkerId="w"')
    )
    both = read(BASELINE + "".join(line + "\n" for line in ray.splitlines() if line.startswith("ray_")))
    assert both.groups == read(BASELINE).groups
    assert both.dialect.prefix == "vllm:"
    assert both.sources == read(BASELINE).sources


def test_a_counter_of_a_model_goes_on_while_its_parts_come_and_go() -> None:
    line = 'vllm:admission_rejections_total{model_name="m",reason="x",tenant="%s"} %d\n'
    engine = engine_body(model_name="m", engine="0")
    bodies = [
        line % ("a", 5),
        line % ("a", 6) + line % ("b", 900),
        line % ("b", 902),
        line % ("a", 7) + line % ("b", 902),
    ]
    parser, normalizer, key = DifferentialParser(), Normalizer(), ("requests_rejected_total", "x")
    polls = [normalizer.normalize(parser.parse((engine + part).encode())) for part in bodies]
    assert [poll.groups[Group(Scope.MODEL, ("m",))].counters[key] for poll in polls] == [5.0, 6.0, 8.0, 9.0]


def test_a_restart_begins_sums_anew() -> None:
    line = 'http_requests_total{handler="/v1/x",method="POST",status="2xx",app="%s"} %d\n'
    parser, normalizer = DifferentialParser(), Normalizer()
    key = ("http_requests_total", "/v1/x", "POST", "2xx")
    polls = [
        normalizer.normalize(parser.parse(f"process_start_time_seconds {start}\n{lines}".encode()))
        for start, lines in ((1, line % ("a", 5) + line % ("b", 6)), (2, line % ("a", 1)), (2, line % ("a", 3)))
    ]
    assert [poll.groups[Group(Scope.TARGET, ())].counters[key] for poll in polls] == [11.0, 1.0, 3.0]


def test_max_lora_of_any_length_is_read_or_left_out() -> None:
    line = 'vllm:lora_requests_info{max_lora="%s",running_lora_adapters="a",waiting_lora_adapters=""} 1\n'
    found = read(line % ("9" * 5000)).adapters
    assert found
    assert found.slots is None


def test_a_name_of_nothing_but_suffixes_is_listed() -> None:
    (name,) = read(engine_body(model_name="m") + "vllm:x" + "_bucket" * 35 + " 1\n").unknown
    assert name == "vllm:x"


def test_series_with_and_without_the_served_model_are_not_two_engines_of_one_name() -> None:
    with_model = engine_body(engine="0", model_name="m")
    found = Normalizer().normalize(
        DifferentialParser().parse((with_model + with_model.replace(',model_name="m"', "")).encode()), "m"
    )
    assert [group.labels for group in found.engines] == [("m", "0")]
    assert found.anomalies["unattributed"] > 0
