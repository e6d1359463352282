"""The screen of `top`: values and a size -> lines, in calm and in trouble, on every size of terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_sidecar.tools.top.drawing import ASCII, UNICODE, Trail, fit, sparkline, width_of, wrapped
from vllm_sidecar.tools.top.families import FAMILIES, combined
from vllm_sidecar.tools.top.figures import Unit, figure
from vllm_sidecar.tools.top.once import as_json, text
from vllm_sidecar.tools.top.pages import Shown, lines_of
from vllm_sidecar.tools.top.servers import report, unreachable
from vllm_sidecar.tools.top.trails import Trails, from_history
from vllm_sidecar.tools.top.view import View

NOW = 1_800_000_000.0
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
HEALTHY = {"name": "healthy", "severity": "fine", "text": "healthy: 12 running, 1100 tokens/s"}
QUEUEING = {
    "name": "queueing", "severity": "bad", "text": "queueing: 273 waiting, 30 s, 32 running: the batch is full"
}  # fmt: skip


def status(name: str | None, *states: dict[str, str], gpus: object = None, **values: float) -> dict[str, object]:
    """Return the status of one target with an engine for each state; values are those of each engine."""
    own = f'target="{name}",' if name else ""
    engines = [f'{own}model_name="{MODEL}",engine="{number}"' for number in range(len(states))]

    def series(value: float, more: str = "") -> list[dict[str, object]]:
        return [{"labels": engine + more, "value": value} for engine in engines]

    latencies = {"recent_request_queue_seconds": "queue", "recent_time_to_first_token_seconds": "ttft"}
    signals = {
        "requests_running": {"unit": "", "series": series(values.get("running", 12.0))},
        "requests_waiting": {"unit": "", "series": series(values.get("waiting", 0.0), ',reason="capacity"')},
        "kv_cache_usage_ratio": {"unit": "ratio", "series": series(values.get("kv", 0.18))},
        "recent_generation_tokens_per_second": {"unit": "", "series": series(values.get("output", 1100.0))},
        **{
            signal: {"unit": "seconds", "series": [
                {"labels": engine, "quantiles": {"0.5": 0.04, "0.95": values.get(key, 0.07)}} for engine in engines
            ]}
            for signal, key in latencies.items()
        },
        "lora_adapter_active": {"unit": "", "series": [
            {"labels": f'{own}lora_adapter="sql",state="waiting"', "value": 1.0}
        ]},
        "lora_slots": {"unit": "", "series": [{"labels": own, "value": 2.0}]},
        "lora_slots_used": {"unit": "", "series": [{"labels": own, "value": 1.0}]},
    }  # fmt: skip
    worst = max(states, key=lambda state: state["severity"] == "bad")
    target = {
        "target": name, "up": True, "state": worst, "signals": signals, "missing": ["inter_token_latency_seconds"],
        "engines": [{"labels": engine, "state": state} for engine, state in zip(engines, states, strict=True)],
        "identity": {"version": "0.32.0", "models": [{"id": MODEL, "parent": None}], "flags": {"max_num_seqs": 32}},
        "interval_seconds": 1.0,
    }  # fmt: skip
    return {"targets": [target], "gpus": gpus, "state": None}


GPU = 'gpu="0",uuid="GPU-1"'
GPUS = {
    "up": True,
    "signals": {
        "gpu_lost": {"series": [{"labels": GPU, "value": 0.0}]},
        "gpu_utilization_ratio": {"series": [{"labels": GPU, "value": 0.98}]},
        "gpu_memory_used_bytes": {"series": [{"labels": GPU, "value": 74.0 * 2**30}]},
        "gpu_memory_total_bytes": {"series": [{"labels": GPU, "value": 80.0 * 2**30}]},
        "gpu_power_watts": {"series": [{"labels": GPU, "value": 650.0}]},
        "gpu_temperature_celsius": {"series": [{"labels": GPU, "value": 64.0}]},
        "gpu_throttled": {
            "series": [
                {"labels": GPU + ',reason="idle"', "value": 1.0},
                {"labels": GPU + ',reason="hw_thermal"', "value": 1.0},
            ]
        },
    },
}


def ramp(key: str, seconds: int = 120) -> Trail:
    return tuple((NOW - seconds + second, {key: float(second)}) for second in range(seconds + 1))


def drawn(shown: Shown, view: View, size: tuple[int, int], glyphs: object = UNICODE) -> list[str]:
    lines = lines_of(shown, view, size, glyphs)  # type: ignore[arg-type]
    return ["".join(part.text for part in line).rstrip() for line in lines]


def fleet() -> Shown:
    servers = [
        *report("a", status("stable", HEALTHY)).servers,
        *report("a", status("canary", QUEUEING, HEALTHY, waiting=273.0, ttft=33.5, queue=31.0)).servers,
        *unreachable("10.0.0.9:10190", "refused: Connection refused").servers,
    ]
    trails = Trails()
    trails.follow(servers, NOW - 1.0)
    return Shown(NOW, servers, trails.all())


def test_a_calm_server_fits_a_small_terminal() -> None:
    shown = Shown(NOW, report("h:8000", status(None, HEALTHY, gpus=GPUS)).servers, opened=ramp("running"))
    lines = drawn(shown, View(place=shown.servers[0].place), (79, 24))
    assert lines[0].startswith("vllm-sidecar top  h:8000")
    assert lines[1:] == [
        "healthy: 12 running, 1100 tokens/s",
        "vLLM 0.32.0 · meta-llama/Llama-3.1-8B-Instruct",
        "LAST MINUTE               LAST 2 MIN",
        "queue time p95       70ms                                              p50 40ms",
        "TTFT p95             70ms                                              p50 40ms",
        "ITL p95                 -",
        "KV-cache usage        18%",
        "preemptions/req         -",
        "running                12 ▂▂▂▂▂▂▂▂▂▃▃▃▃▃▃▄▄▄▄▄▄▅▅▅▅▅▅▆▆▆▆▆▆▆▇▇▇▇▇▇███",
        "waiting                 0",
        "prefix-cache hits       -",
        "prompt tokens/s         -",
        "output tokens/s      1100",
        "GPU    BUSY       MEMORY    POWER  TEMP",
        "0       98%    74/80 GiB    650 W  64 C  hw thermal",
        "LORA ADAPTERS · 1 of 2 slots in use",
        "sql waiting",
        "not exposed by this server: inter_token_latency_seconds",
        "",
        "",
        "",
        "",
        "Esc all servers   p pause   ? help   q quit",
    ]


def test_a_fleet_in_trouble_shows_the_worst_server_first_and_in_words() -> None:
    lines = drawn(fleet(), View(), (79, 24))
    assert lines[1] == "3 servers · 2 bad · 1 fine · 36 running · 546 waiting · 3300 tokens/s"
    assert lines[2:6] == [
        "STATE▼        SERVER         QUEUE  TTFT   ITL   KV  PRE  RUN  WAIT HITS OUT/S",
        "no answer     10.0.0.9:10190     -     -     -    -    -    -     -    -     -",
        "queueing      canary           31s   34s     -  18%    -   24   546    -  2200",
        "healthy       stable          70ms  70ms     -  18%    -   12     0    -  1100",
    ]
    assert lines[21:23] == [
        "── 10.0.0.9:10190 " + "─" * 61,
        "no answer of the sidecar: refused: Connection refused",
    ]
    selected = drawn(fleet(), View(selected=str(fleet().servers[1].place)), (79, 24))
    assert "engine 0 of 2: queueing: 273 waiting, 30 s, 32 running: the batch is full" in selected
    assert any(line.startswith("TTFT p95              34s") and line.count("▁") == 0 for line in selected)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (19, 5), (39, 10), (79, 24), (131, 18), (199, 50)])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_every_page_fits_every_size(size: tuple[int, int], glyphs: object) -> None:
    shown = replace(fleet(), opened=ramp("running"))
    server = shown.servers[1]
    for view in (
        View(), View(help=True), View(paused=True, sort="ttft"), View(place=server.place),
        View(place=server.place, engine=server.engines[1].labels), View(selected=str(server.place)),
    ):  # fmt: skip
        lines = lines_of(shown, view, size, glyphs)  # type: ignore[arg-type]
        assert len(lines) <= size[1]
        if size[0] >= 39:
            assert max(width_of("".join(part.text for part in line)) for line in lines) <= size[0], view
        if glyphs is ASCII:
            assert all(part.text.isascii() for line in lines for part in line)


def test_names_cannot_control_the_terminal() -> None:
    shown = Shown(NOW, report("h", status("a\x1b[2Jb\n", HEALTHY)).servers)
    assert all(part.text.isprintable() for line in lines_of(shown, View(), (79, 24), UNICODE) for part in line)
    assert fit("模型模型", 5, UNICODE) == "模型…"
    assert width_of(fit("模型模型", 6, UNICODE)) == 6


def test_an_engine_has_a_page_of_its_own() -> None:
    shown = fleet()
    server = shown.servers[1]
    lines = drawn(shown, View(place=server.place, engine=server.engines[1].labels), (79, 24))
    assert lines[1:3] == [HEALTHY["text"], f"engine 1 · vLLM 0.32.0 · {MODEL}"]


def test_columns_are_left_out_of_a_narrow_terminal_and_sparklines_added_to_a_wide_one() -> None:
    narrow, wide = drawn(fleet(), View(), (59, 10)), drawn(fleet(), View(), (199, 50))
    assert "OUT/S" in narrow[2]
    assert "PRE" not in narrow[2]
    assert "IN/S" in wide[2]
    assert "█" in wide[4]
    assert "engine 0 of 2: queueing" in wide[4]


def test_servers_without_the_value_are_last_in_both_orders() -> None:
    for reverse in (False, True):
        rows = drawn(fleet(), View(sort="ttft", reverse=reverse), (79, 24))[3:6]
        assert rows[2].startswith("no answer")
        assert rows[1 if reverse else 0].startswith("queueing")


def test_gpus_that_are_not_read_are_named_with_the_reason() -> None:
    gpus = {"up": False, "last_error": {"reason": "library_not_found"}}
    shown = Shown(NOW, report("h", status(None, HEALTHY, gpus=gpus)).servers)
    assert "GPUs are not read: library_not_found" in drawn(shown, View(place=shown.servers[0].place), (79, 24))


def test_once_prints_one_server_whole_and_several_as_a_table() -> None:
    alone = list(text(Shown(NOW, report("h", status(None, HEALTHY)).servers), 100, ASCII))
    assert alone[:2] == ["h", HEALTHY["text"]]
    table = list(text(fleet(), 100, UNICODE))
    assert table[0].startswith("3 servers")
    assert table[-1].startswith("canary: engine 0 of 2: queueing") or table[-2].startswith("canary: ")
    found = as_json(fleet())["servers"]
    assert isinstance(found, list)
    assert found[1]["values"]["waiting"] == 546.0
    assert found[2]["values"]["waiting"] is None


def test_engines_are_in_the_order_of_their_numbers() -> None:
    made = status("a", *[{"name": "healthy", "severity": "fine", "text": "healthy"}] * 12)
    engines = made["targets"][0]["engines"]  # type: ignore[index]
    engines.sort(key=lambda each: each["labels"])
    (server,) = report("feed", made).servers
    assert [engine.number for engine in server.engines] == [str(number) for number in range(12)]


def test_the_page_of_one_server_is_not_stretched_over_a_wide_output() -> None:
    (server,) = report("feed", status("a", {"name": "healthy", "severity": "fine", "text": "healthy"})).servers
    shown = replace(fleet(), servers=(server,))
    assert max(map(width_of, text(shown, 200, UNICODE))) <= 100


def test_a_sidecar_without_servers_says_why() -> None:
    state = {"name": "headless", "severity": "fine", "text": "a worker without an HTTP server"}
    (server,) = report("h", {"targets": [], "state": state, "gpus": None}).servers
    assert (server.state.text, set(server.values.values())) == (state["text"], {None})


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (None, Unit.SECONDS, "-"), (0.0, Unit.SECONDS, "0ms"), (0.0042, Unit.SECONDS, "4.2ms"),
        (0.31, Unit.SECONDS, "310ms"), (0.9999, Unit.SECONDS, "1.0s"), (33.5, Unit.SECONDS, "34s"),
        (599.0, Unit.SECONDS, "599s"), (1500.0, Unit.SECONDS, "25m"), (9000.0, Unit.SECONDS, "2h"),
        (0.456, Unit.RATIO, "46%"), (12.0, Unit.COUNT, "12"), (9999.0, Unit.COUNT, "9999"),
        (0.0, Unit.RATE, "0"), (0.87, Unit.RATE, "0.87"), (1944.4, Unit.RATE, "1944"), (12_345.0, Unit.RATE, "12.3k"),
        (250_000.0, Unit.RATE, "250k"), (1_250_000.0, Unit.RATE, "1.2M"), (3e9, Unit.RATE, "3.0G"),
    ],
)  # fmt: skip
def test_numbers_fit_six_cells(value: float | None, unit: Unit, expected: str) -> None:
    assert figure(value, unit) == expected


def test_sparklines_show_peaks_and_gaps() -> None:
    assert sparkline(ramp("x"), "x", NOW, 8, UNICODE) == "▂▃▄▅▅▆▇█"
    assert sparkline((), "x", NOW, 4, UNICODE) == "    "
    assert sparkline(((NOW - 60.0, {"x": 0.0}),), "x", NOW, 12, UNICODE) == "     ▁▁     "
    peak = ((NOW - 100.0, {"x": 9.0}), (NOW - 99.0, {"x": 1.0}), (NOW - 98.0, {"x": None}))
    assert sparkline(peak, "x", NOW, 12, UNICODE)[1] == "█"


def test_history_of_engines_is_combined_by_time() -> None:
    columns = ("queue_p95", "ttft_p95", "itl_p95", "kv_usage", "preemptions", "running", "waiting", "hit_ratio",
               "prompt_tokens", "generation_tokens")  # fmt: skip

    def engine(number: str, value: float) -> dict[str, object]:
        return {"model_name": "m", "engine": number, "at": [1.0], "series": {name: [value] for name in columns}}

    (point,) = from_history([engine("0", 0.2), engine("1", 0.4)], None)
    assert (point[1]["running"], point[1]["kv"]) == (pytest.approx(0.6), 0.4)
    assert point[1]["hits"] == pytest.approx((0.2 * 0.2 + 0.4 * 0.4) / 0.6)


def test_nothing_combined_is_unknown() -> None:
    assert combined(()) == dict.fromkeys(family.key for family in FAMILIES)


def test_words_are_wrapped_and_the_last_line_is_cut() -> None:
    assert wrapped("one two three four", 8, 2, UNICODE) == ["one two", "three f…"]
