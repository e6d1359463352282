"""Limits on what is read of one server: each costs what exceeds it, is counted under its name, and leaves the rest."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import captured
import pytest
from captured import ENGINE, read
from places import ROOT

from vllm_sidecar.catalog.limits import LIMITS
from vllm_sidecar.exposition import DifferentialParser, grammar, parser
from vllm_sidecar.series.readings import TARGET
from vllm_sidecar.vllm import attribution, compiler, engines, mapping
from vllm_sidecar.vllm.normalize import Normalizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vllm_sidecar.series.readings import Readings

RUNNING = 'vllm:num_requests_running{engine="%s",model_name="tiny"%s} 1\n'
GOOD = RUNNING % (0, "") + 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 7\n'
BUCKET = 'vllm:time_to_first_token_seconds_bucket{engine="0",model_name="tiny"%s,le="%s"} %d\n'
HTTP = 'http_requests_total{handler="%s",method="%s",status="2xx"} %d\n'


def many(line: str, numbers: Iterable[int]) -> str:
    return "".join(line % number for number in numbers)


def buckets(count: int) -> str:
    bounds = chain((f"{n / 100}" for n in range(1, count + 1)), ("+Inf",))
    return "".join(BUCKET % ("", bound, number) for number, bound in enumerate(bounds, 1))


def lora(names: Iterable[str]) -> str:
    joined = ",".join(names)
    return f'vllm:lora_requests_info{{max_lora="2",running_lora_adapters="{joined}",waiting_lora_adapters=""}} 1\n'


EXCEEDED: dict[str, Callable[[], str]] = {
    "lines": lambda: GOOD + "\n" * parser.MAX_LINES,
    "line_length": lambda: GOOD + 'a{b="' + "x" * parser.MAX_LINE + '"} 1\n',
    "names": lambda: GOOD + many("a%d 1\n", range(parser.MAX_NAMES)),
    "series_per_name": lambda: GOOD + many('a{b="%d"} 1\n', range(parser.MAX_PER_NAME + 1)),
    "name_length": lambda: GOOD + "a" * (grammar.MAX_NAME + 1) + " 1\n",
    "labels": lambda: GOOD + "a{" + ",".join(f'l{n}="x"' for n in range(grammar.MAX_LABELS + 1)) + "} 1\n",
    "label_length": lambda: GOOD + RUNNING % ("x" * (attribution.MAX_LABEL + 1), ""),
    "number_length": lambda: GOOD + "a " + "1" * (grammar.MAX_NUMBER + 1) + "\n",
    "buckets": lambda: GOOD + buckets(mapping.MAX_BUCKETS + 1),
    "series_per_signal": lambda: GOOD + many(HTTP % ("/%d", "GET", 1), range(compiler.MOST_KEYS + 1)),
    "copies": lambda: (
        GOOD.replace("{", '{pid="0",')
        + many(GOOD.splitlines()[1].replace("{", '{pid="%d",') + "\n", range(1, compiler.MOST_COPIES + 1))
    ),
    "engines": lambda: GOOD + many(RUNNING % ("%d", ""), range(1, engines.MAX_ENGINES + 1)),
    "adapters": lambda: GOOD + lora(["ok", "x" * (attribution.MAX_LABEL + 1)]),
    "families": lambda: GOOD + many("vllm:new%d 1\n", range(compiler.MOST_UNKNOWN + 1)),
}


@pytest.mark.parametrize(("limit", "body"), EXCEEDED.items(), ids=EXCEEDED)
def test_what_exceeds_a_limit_is_left_out_and_counted_and_the_engine_remains(
    limit: str, body: Callable[[], str]
) -> None:
    found = read(body())
    assert {name: count > 0 for name, count in found.limits.items()} == {limit: True}
    assert found.groups[ENGINE].gauges["requests_running"] == 1.0
    assert found.groups[ENGINE].counters["generation_tokens_total"] >= 7.0


def test_every_limit_of_the_catalog_is_tested() -> None:
    assert EXCEEDED.keys() | {"models"} == LIMITS.keys()


def test_the_documents_list_every_limit() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    assert [name for name, left_out in LIMITS.items() if f"| `{name}` | {left_out} |" not in text] == []


def test_recorded_servers_exceed_no_limit() -> None:
    for name in captured.NAMES:
        assert read(captured.text(name)).limits == {}, name


@pytest.mark.parametrize("count", [129, 500, 5000])
def test_of_too_many_buckets_neighbors_are_merged_and_no_observation_is_lost(count: int) -> None:
    found = read(GOOD + buckets(count)).groups[ENGINE].histograms["time_to_first_token_seconds"]
    assert len(found.bounds) == mapping.MAX_BUCKETS
    assert list(found.bounds) == sorted(set(found.bounds))
    assert found.bounds[-1] == count / 100
    assert found.cumulative[-1] == count + 1
    assert all(seen == round(bound * 100) for bound, seen in zip(found.bounds, found.cumulative, strict=False))


def test_as_many_buckets_as_allowed_stay_as_they_are() -> None:
    found = read(GOOD + buckets(mapping.MAX_BUCKETS)).groups[ENGINE].histograms["time_to_first_token_seconds"]
    assert found.bounds == tuple(n / 100 for n in range(1, mapping.MAX_BUCKETS + 1))


def test_routes_that_reach_an_engine_are_read_before_those_of_a_scanner() -> None:
    scanned = many(HTTP % ("/%d", "GET", 1), range(2 * compiler.MOST_KEYS))
    found = read(GOOD + scanned + HTTP % ("/v1/completions", "POST", 9)).groups[TARGET].counters
    assert len(found) == compiler.MOST_KEYS
    assert found["http_requests_total", "/v1/completions", "POST", "2xx"] == 9.0


def test_known_engines_keep_their_places_when_ten_thousand_others_appear() -> None:
    normalizer = Normalizer()

    def poll(body: str) -> Readings:
        return normalizer.normalize(DifferentialParser().parse(body.encode()))

    before = poll(GOOD)
    crowd = many(RUNNING % ("%d", ""), range(1000, 9000))
    after = poll(crowd + GOOD)
    assert len(after.engines) == engines.MAX_ENGINES
    assert before.engines.items() <= after.engines.items()
    assert poll(GOOD).engines == before.engines


def test_unknown_families_are_all_counted_and_the_first_are_listed() -> None:
    found = read(GOOD + many("vllm:new%04d 1\n", range(500)))
    assert found.unknown_count == 500
    assert found.unknown == tuple(f"vllm:new{n:04d}" for n in range(compiler.MOST_UNKNOWN))


def test_a_layout_is_compiled_in_steps() -> None:
    exposition = DifferentialParser().parse(captured.text().encode())
    assert sum(1 for _ in Normalizer().steps(exposition)) > len(exposition.layout.families) / 2
    wide = DifferentialParser().parse((GOOD + many(HTTP % ("/%d", "GET", 1), range(9000))).encode())
    assert sum(1 for _ in Normalizer().steps(wide)) >= 9 + sum(1 for _ in Normalizer().steps(exposition)) / 2
