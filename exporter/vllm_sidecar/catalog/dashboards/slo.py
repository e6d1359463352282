"""SLO: objectives, how much of their error budget is left, and how fast it is used."""

from __future__ import annotations

from vllm_sidecar.catalog.dashboards.factories import bars, lines, table
from vllm_sidecar.catalog.dashboards.panel import Color, Dashboard, Query, Row
from vllm_sidecar.catalog.types import Unit

_NEW = "No requests since the rules of the objectives were loaded."
_WHICH = "{{model_name}} {{slo}}"

SLO_DASHBOARD = Dashboard(
    "vllm-slo",
    "vLLM · SLO",
    "Objectives per model over 30 days: attainment, error budget and burn. They are defined in thresholds.yaml.",
    (
        Row(
            "How much is left?",
            (
                table("Every objective", "Attainment now and over hours, the budget of 30 days, and how fast it is used. Budgets fluctuate in "
                      "the first days after the rules were loaded.",
                      Query("max by (model_name, slo) (@slo_objective:ratio)", "Objective", unit=Unit.RATIO),
                      Query("1 - max by (model_name, slo) (@slo_errors:ratio_rate<<windows.short>>)", "Now", unit=Unit.RATIO),
                      Query("1 - max by (model_name, slo) (@slo_errors:ratio_rate<<windows.page_slow>>)", "In <<windows.page_slow>>", unit=Unit.RATIO),
                      Query("max by (model_name, slo) (@slo_budget_remaining:ratio30d)", "Budget left", unit=Unit.RATIO),
                      Query("max by (model_name, slo) (@slo_burn:ratio_rate<<windows.page>>)", "Burn, <<windows.page>>", bad="burn.page"),
                      Query("max by (model_name, slo) (@slo_burn:ratio_rate<<windows.page_slow>>)", "Burn, <<windows.page_slow>>", bad="burn.page_slow"),
                      labels=("model_name", "slo"), links=("model_name",), sort="Burn, <<windows.page>>", empty=_NEW, height=10, width=16),
                bars("Which budget is nearest to exhaustion?", "Share of the 30 days' budget that is left; below 0 the objective is missed.", Unit.RATIO,
                     Query("@slo_budget_remaining:ratio30d", _WHICH, top=-10), bad="spent", below=True, least=0.0, most=1.0, height=10, empty=_NEW),
            ),
        ),
        Row(
            "How fast is it used?",
            (
                lines("Burn over <<windows.page>>", "How many times faster than allowed the budget is used; above <<burn.page>> over <<windows.page>> and <<windows.short>> pages.", Unit.NONE,
                      Query("@slo_burn:ratio_rate<<windows.page>>", _WHICH, top=8), bad="burn.page", empty=_NEW),
                lines("Burn over <<windows.page_slow>>", "Above <<burn.page_slow>> it pages too: slower, and for longer.", Unit.NONE, Query("@slo_burn:ratio_rate<<windows.page_slow>>", _WHICH, top=8),
                      bad="burn.page_slow", empty=_NEW),
                lines("Burn over <<windows.ticket_slow>>", "Above <<burn.ticket_slow>> is a ticket: the budget will not last.", Unit.NONE,
                      Query("@slo_burn:ratio_rate<<windows.ticket_slow>>", _WHICH, top=8), watch="burn.ticket_slow", empty=f"{_NEW} The slow windows appear after five minutes."),
                lines("What share was bad?", "Bad observations over five minutes.", Unit.RATIO, Query("@slo_errors:ratio_rate<<windows.short>>", _WHICH, top=8),
                      width=12, empty=_NEW),
                lines("How much budget was left?", "Over 30 days, or since Prometheus began to record.", Unit.RATIO,
                      Query("@slo_budget_remaining:ratio30d", _WHICH, top=-8), least=None, most=1.0, width=12, empty=_NEW),
            ),
        ),
        Row(
            "What is it counted from?",
            (
                lines("How many observations are there?", "Per second: observations for latencies, requests for availability.", Unit.NONE,
                      Query("@slo_observations:rate5m", _WHICH, top=8), width=12, empty=_NEW),
                table("Are the sidecar's own counts exact?", "1 where the threshold is a bucket bound, 0 where good requests are estimated.",
                      Query("min by (model_name, slo) (~slo_exact)", "Exact"), Query("max by (model_name, slo) (~slo_threshold_seconds)",
                      "Threshold", Color.P95, unit=Unit.SECONDS), labels=("model_name", "slo"), width=12, height=8,
                      empty="No sidecar counts objectives (slos in its configuration)."),
            ),
        ),
    ),
    since="6h",
)  # fmt: skip
