"""Overview: the fleet, and its worst models and servers."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import (
    ENGINE,
    NO_SIDECAR,
    SERVER,
    by_histogram,
    lines,
    number,
    states,
    table,
)
from vllm_sidecar.catalog.dashboards.panel import Color, Dashboard, Query, Row, Word
from vllm_sidecar.catalog.dashboards.server_state import SERVER_STATE, SERVER_STATES
from vllm_sidecar.catalog.types import Unit

_WORST = 5
_BY_MODEL = "{{model_name}}"
_ALERT = "alertname, model_name, instance, target, engine, gpu, slo"
_NAMED = "{{alertname}} {{model_name}} {{instance}} {{target}} {{slo}}"
_SEVERITIES = (Word(1, "ticket", Color.WATCH), Word(2, "page", Color.BAD))


def _worst(expr: str, legend: str, plain: str = "") -> Query:
    return Query(expr, legend, plain=plain, top=_WORST)


OVERVIEW = Dashboard(
    "vllm-overview",
    "vLLM · Overview",
    "Every model and server: what is wrong, where, and which are worst. Click a model for its incident, a server for its engine.",
    (
        Row(
            "Is anything wrong?",
            (
                number("Servers that answer", "Servers whose metrics arrive now. If fewer than you run, see their states below.", Unit.NONE,
                       'count(~up{source="vllm"} == 1) or vector(0)', decimals=0),
                number("Servers that do not", "Servers whose polls fail. Each has a row in the table below.", Unit.NONE,
                       'count(~up{source="vllm"} == 0) or vector(0)', bad="one", decimals=0),
                number("Alerts that page", "Alerts of severity page that fire now. Each is listed in the table below.", Unit.NONE,
                       'count(<<firing>>{<<alerts>>,severity="page"}) or vector(0)', bad="one", decimals=0),
                number("Tickets", "Alerts of severity ticket that fire now: for working hours.", Unit.NONE,
                       'count(<<firing>>{<<alerts>>,severity="ticket"}) or vector(0)', watch="one", decimals=0),
                number("Least error budget left", "Of all models and objectives, the smallest share of the month's budget that is left; "
                       "below 0 the objective is missed. It fluctuates in the first days of recording.",
                       Unit.RATIO, "min(@slo_budget_remaining:ratio30d)", bad="spent", below=True, decimals=0, least=None,
                       empty="no requests yet"),
                number("Requests per second", "Requests that finish, of all models.", Unit.PER_SECOND,
                       "sum(rate(~requests_finished_total[$__rate_interval]))", decimals=1),
                table("What fires now?", "Alerts of this pack, pages first. The watchdog always fires: it shows that the rules are evaluated. "
                      "Click an alert for its runbook.",
                      Query('max by (severity, alertname, model_name, instance, target, engine, slo) (<<firing>>{<<alerts>>} or '
                            '<<firing>>{<<watchdog>>})', ""),
                      labels=("severity", "alertname", "model_name", "instance", "engine", "slo"), links=("alertname", "model_name", "instance"),
                      width=12, height=8, empty="No rules of this pack are loaded."),
                states("What fired when?", "A bar for each alert while it fired. The first one is nearest to the cause.",
                       Query(f'max by ({_ALERT}) (<<firing>>{{<<alerts>>,severity="page"}}) * 0 + 2', _NAMED),
                       Query(f'max by ({_ALERT}) (<<firing>>{{<<alerts>>,severity="ticket"}})', _NAMED),
                       words=_SEVERITIES, width=12, empty="No alert fired in this range."),
            ),
        ),
        Row(
            "How is every server?",
            (
                table("Every server, the worst first",
                      "State, load and recent latencies. Click a model for its incident dashboard, a server for its engine.",
                      Query(SERVER_STATE, "State", states=True),
                      Query("max by (<<T>>, model_name) (~requests_running) * 0", ""),
                      Query("sum by (<<T>>) (~requests_running)", "Running"),
                      Query("sum by (<<T>>) (~requests_waiting)", "Waiting"),
                      Query("max by (<<T>>) (~live_queue_wait_seconds)", "Wait now", unit=Unit.SECONDS, bad="VllmQueueWaitHigh.wait"),
                      Query('max by (<<T>>) (~recent_time_to_first_token_seconds{quantile="0.95"})', "TTFT p95", unit=Unit.SECONDS,
                            bad="slo.time_to_first_token", plain=by_histogram(0.95, "time_to_first_token_seconds", "<<T>>")),
                      Query('max by (<<T>>) (~recent_inter_token_latency_seconds{quantile="0.95"})', "ITL p95", unit=Unit.SECONDS,
                            bad="slo.inter_token_latency", plain=by_histogram(0.95, "inter_token_latency_seconds", "<<T>>")),
                      Query("max by (<<T>>) (~recent_kv_cache_usage_peak_ratio)", "KV peak", unit=Unit.RATIO,
                            plain="max by (<<T>>) (~kv_cache_usage_ratio)"),
                      Query("sum by (<<T>>) (~recent_generation_tokens_per_second)", "Tokens out", unit=Unit.TOKENS_PER_SECOND,
                            plain="sum by (<<T>>) (rate(~generation_tokens_total[$__rate_interval]))"),
                      Query("max by (<<T>>) (~recent_error_ratio)", "Errors", unit=Unit.RATIO, bad="VllmErrorRatioHigh.errors"),
                      labels=("cluster", "model_name", "instance", "target"), links=("model_name", "instance"),
                      words=SERVER_STATES, sort="State", height=12),
            ),
        ),
        Row(
            "Which are worst?",
            (
                lines("Where do requests wait longest?", "How long a request that arrives now will wait, at the five worst engines. "
                      "Open the engine: a full KV cache, a full batch, or too much load?", Unit.SECONDS,
                      _worst("~live_queue_wait_seconds", ENGINE),
                      bad="VllmQueueWaitHigh.wait", empty=NO_SIDECAR),
                lines("Where is the first token slowest?", "Recent p95 of the time to the first token, at the five worst engines.", Unit.SECONDS,
                      _worst('~recent_time_to_first_token_seconds{quantile="0.95"}', ENGINE), bad="slo.time_to_first_token", empty=NO_SIDECAR),
                lines("Where are tokens slowest?", "Recent p95 of the time between two outputs, at the five worst engines.", Unit.SECONDS,
                      _worst('~recent_inter_token_latency_seconds{quantile="0.95"}', ENGINE), bad="slo.inter_token_latency", empty=NO_SIDECAR),
                lines("Where does the KV cache harm requests?", "KV pressure of the five worst engines: above 0.5 only where requests were preempted or "
                      "waited for capacity. A full cache alone is healthy.", Unit.RATIO,
                      _worst("~kv_cache_pressure_ratio", ENGINE, "~kv_cache_usage_ratio"),
                      bad="VllmKvCachePressure.pressure", most=1.0),
                lines("Where do requests fail?", "Share of requests that end as an error of the server, at the five worst.", Unit.RATIO,
                      _worst("~recent_error_ratio", SERVER), bad="VllmErrorRatioHigh.errors", empty=NO_SIDECAR),
                lines("Which engines are nearest to their limits?", "Saturation of the five fullest engines, 0 to 1: what autoscalers read.", Unit.RATIO,
                      _worst("~saturation_ratio", ENGINE), most=1.0, empty=NO_SIDECAR),
            ),
        ),
        Row(
            "What does each model serve, and does it meet its objectives?",
            (
                lines("How many requests finish?", "Per second, by model. A drop without fewer clients is an outage in front of vLLM.",
                      Unit.PER_SECOND, Query("sum by (model_name) (rate(~requests_finished_total[$__rate_interval]))", _BY_MODEL)),
                lines("How fast are tokens generated?", "Tokens per second of decode, by model.", Unit.TOKENS_PER_SECOND,
                      Query("sum by (model_name) (~recent_generation_tokens_per_second)", _BY_MODEL,
                            plain="sum by (model_name) (rate(~generation_tokens_total[$__rate_interval]))")),
                lines("How fast are prompts processed?", "Prompt tokens per second, by model, cached or not.", Unit.TOKENS_PER_SECOND,
                      Query("sum by (model_name) (~recent_prompt_tokens_per_second)", _BY_MODEL,
                            plain="sum by (model_name) (rate(~prompt_tokens_total[$__rate_interval]))")),
                lines("How fast is error budget used?", "Burn over <<windows.page>>, the worst objective of each model: 1 uses the budget up in "
                      "exactly 30 days, above <<burn.page>> pages.", Unit.NONE, Query("max by (model_name) (@slo_burn:ratio_rate<<windows.page>>)", _BY_MODEL),
                      width=12, bad="burn.page", empty="No requests since the rules were loaded."),
                lines("How much runs and waits in the fleet?", "Requests in the engines of all models; if waiting grows and running does not, a limit is "
                      "reached.", Unit.NONE,
                      Query("sum(~requests_running)", "running", Color.RUNNING), Query("sum(~requests_waiting)", "waiting", Color.WAITING),
                      width=12, stacked=True, decimals=0),
            ),
        ),
    ),
)  # fmt: skip
