"""The sidecar's HTTP server over real sockets, as Prometheus and a person use it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re

import pytest
from fake_vllm import FakeVllm
from places import CAPTURES, RULES
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from running import config
from serving import serving

from vllm_sidecar.config import Config, ConfigError
from vllm_sidecar.serve.page import _known_asset

pytestmark = pytest.mark.io

BODY = (CAPTURES / "0.32.0__baseline__load.prom").read_bytes()
RUNBOOKS = RULES / "runbooks"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=0.0.4;q=0.25,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3], ids=["Prometheus 2", "Prometheus 3"])
async def test_prometheus_gets_openmetrics(accept: str) -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        answer, body = await client.get("/metrics", Accept=accept)
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert len(list(parse_openmetrics(body.decode()))) > 80


@pytest.mark.parametrize("accept", ["*/*", "text/plain;version=0.0.4", "text/html"])
async def test_anybody_else_gets_the_text_format(accept: str) -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        answer, body = await client.get("/metrics", Accept=accept)
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# TYPE vllm_sidecar_prompt_tokens_total counter\n" in body
        assert not body.endswith(b"# EOF\n")


async def test_gzip_is_used_where_it_is_taken() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        for accepted, encoding in (("gzip", "gzip"), ("gzip;q=0", None), ("identity", None)):
            answer, body = await client.get("/metrics", **{"Accept-Encoding": accepted})
            assert answer.headers.get("Content-Encoding") == encoding
            assert b"vllm_sidecar_up" in body


async def test_ready_follows_the_first_success_of_any_target_and_healthy_does_not_wait() -> None:
    async with FakeVllm(BODY) as fake, serving(config("http://127.0.0.1:1"), config(fake.url)) as client:
        await client.until_polled()
        assert (await client.get("/-/healthy"))[0].status == 200
        assert (await client.get("/-/ready"))[0].status == 503
        assert await client.sidecar.reload() is None
        await client.until_polled()
        assert (await client.get("/-/ready"))[0].status == 200


async def test_reload_by_http_is_off_unless_enabled() -> None:
    on = config("http://127.0.0.1:1", web={"enable_lifecycle": True})
    async with serving(config("http://127.0.0.1:1")) as client:
        status, text = await client.post("/-/reload")
        assert (status, text) == (403, "the lifecycle API is off: set web.enable_lifecycle to true.\n")
    async with serving(on, on) as client:
        assert await client.post("/-/reload") == (200, "configuration reloaded.\n")


async def test_a_bad_configuration_keeps_the_old_one_and_shows_in_a_metric() -> None:
    async with FakeVllm(BODY) as fake:
        on = config(fake.url, web={"enable_lifecycle": True})
        async with serving(on, ConfigError(None, ["targets.0.url: wrong"]), on) as client:
            await client.until_polled()
            status, text = await client.post("/-/reload")
            assert (status, text) == (500, "the previous configuration remains in use:\ntargets.0.url: wrong\n")
            _, body = await client.get("/metrics")
            assert b"\nvllm_sidecar_config_last_reload_successful 0.0\n" in body
            assert b'vllm_sidecar_up{source="vllm",model_name="tiny"} 1.0\n' in body
            await client.post("/-/reload")
            _, body = await client.get("/metrics")
            assert b"\nvllm_sidecar_config_last_reload_successful 1.0\n" in body


async def test_a_reload_keeps_the_windows_of_targets_that_stay_and_drops_those_that_go() -> None:
    async with FakeVllm(BODY) as a, FakeVllm(BODY) as b, FakeVllm(BODY) as c:

        def several(**targets: FakeVllm) -> Config:
            listed = tuple({"name": name, "url": fake.url} for name, fake in targets.items())
            return Config.model_validate({"targets": listed, "introspection": {"proc": False}})

        async with serving(several(a=a, b=b), several(b=b, c=c)) as client:
            await client.until_polled()
            before = client.sidecar.exporter.snapshots["b"].health.polls
            await client.sidecar.reload()
            await client.until_polled()
            snapshots = client.sidecar.exporter.snapshots
            assert list(snapshots) == ["b", "c"]
            assert snapshots["b"].health.polls >= before
            _, body = await client.get("/metrics")
            assert b'vllm_sidecar_up{target="b",source="vllm",model_name="tiny"} 1.0\n' in body
            assert b'target="a"' not in body


async def test_a_target_that_hangs_does_not_hold_up_another() -> None:
    async with FakeVllm(BODY) as good, FakeVllm(BODY) as hanging:
        hanging.delay = 30.0
        targets = ({"name": "good", "url": good.url}, {"name": "hanging", "url": hanging.url})
        settings = {"targets": targets, "scrape": {"interval": "50ms"}, "introspection": {"enabled": False}}
        async with serving(Config.model_validate(settings)) as client:
            await client.until(lambda snapshots: snapshots["good"].health.polls >= 3)
            assert client.sidecar.exporter.snapshots["hanging"].health.polls == 0
            _, body = await client.get("/metrics")
            assert b'vllm_sidecar_up{target="hanging",source="vllm"} 0.0\n' in body


async def test_the_status_says_what_is_known_missing_and_wrong() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        answer, _ = await client.get("/api/v1/status")
        (target,) = (await answer.json())["targets"]
    assert target["up"] is True
    assert target["dialect"] == {"prefix": "vllm:", "engine": "v1", "front_end": "python", "multiprocess": False}
    assert target["sources"]["kv_cache_usage_ratio"] == ["vllm:kv_cache_usage_perc"]
    assert (target["missing"], target["unknown"], target["rejected_lines"]) == ([], [], [])
    assert target["signals"]["requests_running"]["series"] == [
        {"labels": 'model_name="tiny",engine="0"', "value": 16.0}
    ]


async def test_the_status_of_a_target_that_is_down_names_reason_and_hint() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        await client.until_polled()
        answer, _ = await client.get("/api/v1/status")
        (target,) = (await answer.json())["targets"]
    assert target["up"] is False
    assert target["last_error"]["reason"] == "refused"
    assert "vLLM" in target["last_error"]["hint"]


async def test_the_last_scrape_is_shown_as_it_came() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        answer, body = await client.get("/debug/last-scrape")
        assert (answer.status, body) == (200, BODY)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client.get("/debug/last-scrape?target=other"))[0].status == 404


async def test_a_body_that_is_no_exposition_can_be_looked_at() -> None:
    page = b"<html><title>Sign in</title></html>"
    async with FakeVllm(page) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        answer, body = await client.get("/debug/last-scrape")
        assert (answer.status, body) == (200, page)
        assert answer.headers["Content-Type"].startswith("text/plain")


async def test_every_page_and_file_that_the_status_page_names_answers() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        _, body = await client.get("/")
        named = re.findall(r'(?:href|src)="([^"]+)"', body.decode())
        for path in (path for path in named if not path.startswith("data:")):
            assert not path.startswith("/"), "a path prefix of a proxy would be lost"
            assert (await client.get(f"/{path}"))[0].status == 200, path


async def test_the_page_allows_only_its_own_script_and_style_and_is_asked_for_again_for_nothing() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        answer, body = await client.get("/")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
        assert "unsafe" not in policy
        script = re.findall(rb"<script>(.*?)</script>", body, flags=re.DOTALL)[0]
        assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy
        again, nothing = await client.get("/", **{"If-None-Match": answer.headers["ETag"]})
        assert (again.status, nothing) == (304, b"")
        chart, _ = await client.get("/page/uplot.js")
        assert chart.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert "Content-Security-Policy" not in chart.headers


@pytest.mark.parametrize("known", ["*", "W/{tag}", '"other", {tag}', "{tag},{tag}"])
async def test_a_page_that_the_client_has_is_not_sent_again(known: str) -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        for path in ("/", "/page/uplot.js"):
            tag = (await client.get(path))[0].headers["ETag"]
            again, nothing = await client.get(path, **{"If-None-Match": known.replace("{tag}", tag)})
            assert (again.status, nothing, again.headers["ETag"]) == (304, b"", tag)


async def test_names_that_are_no_files_of_the_page_leave_nothing_behind() -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        await client.get("/page/uplot.js")
        before = _known_asset.cache_info().currsize
        for number in range(50):
            assert (await client.get(f"/page/{number}.js"))[0].status == 404
        assert _known_asset.cache_info().currsize == before


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/api/v1/status", "/page/none", "/none"])
async def test_no_answer_names_versions_of_what_it_is_made_with(path: str) -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        answer, _ = await client.get(path)
        assert answer.headers["Server"] == "vllm-sidecar"


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x", "text/plain;version=x", ";;,q="])
async def test_odd_wishes_get_the_text_format(accept: str) -> None:
    async with serving(config("http://127.0.0.1:1")) as client:
        answer, body = await client.get("/metrics", Accept=accept)
        assert (answer.status, answer.content_type) == (200, "text/plain")
        assert b"vllm_sidecar_up" in body


async def test_the_metrics_move_to_the_path_that_is_configured_and_the_usual_one_leads_there() -> None:
    async with serving(config("http://127.0.0.1:1", web={"telemetry_path": "/own/path"})) as client:
        answer, body = await client.get("/own/path")
        assert (answer.status, b"vllm_sidecar_up" in body) == (200, True)
        answer, _ = await client.get("/metrics")
        assert (answer.status, answer.url.path) == (200, "/own/path")


@pytest.mark.parametrize(
    ("seconds", "status"),
    [("10", 200), ("0.02", 503), ("0", 200), ("-1", 200), ("nan", 200), ("inf", 200), ("soon", 200), ("", 200)],
)
async def test_a_scraper_that_waits_shorter_than_the_signals_take_is_told_so(
    monkeypatch: pytest.MonkeyPatch, seconds: str, status: int
) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.2)

    async with serving(config("http://127.0.0.1:1")) as client:
        monkeypatch.setattr(client.sidecar.exporter, "prepare", slow)
        answer, body = await client.get("/metrics", **{"X-Prometheus-Scrape-Timeout-Seconds": seconds})
        assert answer.status == status
        assert (b"raise scrape_timeout" in body) is (status == 503)


async def test_a_head_request_gets_the_headers_of_a_get() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        for path in ("/", "/-/healthy", "/debug/last-scrape", "/page/uplot.js"):
            full, body = await client.get(path)
            head, nothing = await client.head(path)
            assert (head.status, nothing, head.headers["Content-Length"]) == (200, b"", str(len(body)))
            assert head.headers["Content-Type"] == full.headers["Content-Type"]
        head, nothing = await client.head("/metrics", **{"Accept-Encoding": "gzip"})
        assert (head.status, nothing, head.headers["Content-Encoding"]) == (200, b"", "gzip")


async def test_the_last_scrape_is_shown_without_working_out_what_is_derived() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        client.sidecar.exporter.sources[""].snapshot = None  # type: ignore[method-assign,assignment]
        assert (await client.get("/debug/last-scrape"))[1] == BODY


async def test_a_headless_worker_is_ready_polls_nothing_and_says_so() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url, vllm={"headless": True})) as client:
        answer, text = await client.get("/-/ready")
        assert (answer.status, text) == (200, b"vllm-sidecar is ready: a headless worker has no server to poll.\n")
        answer, _ = await client.get("/api/v1/status")
        status = await answer.json()
        assert status["targets"] == []
        assert status["state"] == {
            "name": "headless",
            "severity": "fine",
            "text": "a worker without an HTTP server (vllm.headless): nothing is polled, only its GPUs are watched",
        }
        _, body = await client.get("/metrics")
        assert b'source="vllm"' not in body
        assert fake.requests == []


async def test_a_sidecar_that_watches_only_gpus_says_so() -> None:
    async with serving(Config.model_validate({"gpu": {"only": True}})) as client:
        answer, _ = await client.get("/api/v1/status")
        status = await answer.json()
        assert (status["targets"], status["state"]["name"]) == ([], "gpus_only")


async def test_with_several_targets_the_history_and_the_last_scrape_are_those_of_one() -> None:
    async with FakeVllm(BODY) as a, FakeVllm(BODY) as b:
        targets = tuple({"name": name, "url": fake.url} for name, fake in (("a", a), ("b", b)))
        async with serving(Config.model_validate({"targets": targets, "introspection": {"proc": False}})) as client:
            await client.until_polled()
            assert (await client.get("/debug/last-scrape"))[0].status == 400
            assert (await client.get("/debug/last-scrape?target=b"))[1] == BODY
            _, body = await client.get("/api/v1/history?target=b&engine=0")
            assert [target["target"] for target in json.loads(body)["targets"]] == ["b"]
            assert (await client.get("/api/v1/history?since=nan"))[0].status == 400


async def test_a_target_that_is_unknown_is_not_found_and_the_known_ones_are_named() -> None:
    async with FakeVllm(BODY) as fake, FakeVllm(BODY) as other:
        targets = tuple({"name": name, "url": url} for name, url in (("a", fake.url), ("b", other.url)))
        async with serving(Config.model_validate({"targets": targets, "introspection": {"proc": False}})) as client:
            answer, body = await client.get("/api/v1/history?target=c&engine=0")
            assert (answer.status, answer.content_type) == (404, "application/json")
            assert json.loads(body) == {"error": "no target is named 'c'; the targets are a, b."}
            answer, body = await client.get("/debug/last-scrape?target=c")
            assert (answer.status, body) == (404, b"no target is named 'c'; the targets are a, b.\n")
        async with serving(config(fake.url)) as client:
            answer, body = await client.get("/api/v1/history?target=" + "x" * 3000)
            assert (answer.status, len(body) < 300) == (404, True)
            assert b"the only target has no name: leave ?target= out" in body
            assert (await client.get("/api/v1/history?target="))[0].status == 200


async def test_only_the_files_of_the_page_are_served() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        for name in ("index.html", "__init__.py", "..%2fserver.py"):
            assert (await client.get(f"/page/{name}"))[0].status == 404


async def test_the_history_has_the_charts_of_each_engine_and_only_newer_points_when_asked() -> None:
    async with FakeVllm(BODY) as fake, serving(config(fake.url)) as client:
        await client.until_polled()
        _, body = await client.get("/api/v1/history")
        (target,) = json.loads(body)["targets"]
        (engine,) = target["engines"]
        assert (target["target"], engine["model_name"], engine["engine"]) == (None, "tiny", "0")
        assert engine["series"]["running"] == [16.0] * len(engine["at"])
        _, body = await client.get(f"/api/v1/history?since={engine['at'][-1] + 60}")
        assert json.loads(body)["targets"][0]["engines"][0]["at"] == []
        assert (await client.get("/api/v1/history?since=noon"))[0].status == 400


async def test_the_status_says_the_state_in_words() -> None:
    async with FakeVllm(b"") as fake, serving(config(fake.url)) as client:
        await client.until(lambda snapshots: snapshots[""].health.reason == "empty")
        _, body = await client.get("/api/v1/status")
        state = json.loads(body)["targets"][0]["state"]
        assert (state["name"], state["severity"]) == ("down", "bad")
