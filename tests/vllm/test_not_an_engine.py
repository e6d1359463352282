"""Bodies of routers and other programs are named as what they are, and those of engines are not."""

from __future__ import annotations

import captured
import pytest
from captured import read
from labelled_bodies import engine_body


@pytest.mark.parametrize(
    "name", ["vllm_router_requests_total", "vllm_tokenizer_seconds", "vllm_omni:e2e", "vllm_new_x"]
)
def test_a_name_that_only_begins_like_vllms_makes_no_prefix(name: str) -> None:
    found = read(f"{name} 1\n" + engine_body(model_name="m", engine="0"))
    assert found.dialect.prefix == "vllm:"
    assert found.unknown == ()
    assert read(f"{name} 1\n").dialect.prefix == ""


def router(*families: str) -> str:
    return "".join(f'vllm:{name}{{server="http://10.0.0.{n}:8000"}} {n}\n' for name in families for n in (1, 2))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (router("num_requests_running", "num_requests_waiting", "current_qps"), "server"),
        (router("num_requests_running", "generation_tokens_total"), "server"),
        (
            'vllm:num_requests_running{model_name="m",server="http://a:1"} 1\nvllm:healthy_pods_total 1\n',
            "without the metrics of an engine",
        ),
        ('vllm:num_incoming_requests_total{model="m"} 5\n', "without the metrics of an engine"),
        ("# TYPE vllm:prompt_tokens_total gauge\nvllm:prompt_tokens_total 1\n", "without the metrics of an engine"),
        ("vllm_router_requests_total 5\npython_info 1\n", "router"),
        ("vllm_sidecar_up 1\n", "sidecar"),
        ('litellm_requests_metric_total{model="m"} 1\n', "LiteLLM"),
        ("envoy_cluster_upstream_rq_total 1\n", "Envoy"),
        ('inference_pool_average_queue_size{name="p"} 1\n', "gateway"),
        ('sglang:num_running_reqs{model_name="m"} 1\n', "SGLang"),
    ],
    ids=[
        "gauges of backends",
        "counters of backends",
        "gauges of one backend",
        "a router with a family of its own",
        "a gauge by the name of a counter",
        "a router",
        "a sidecar",
        "LiteLLM",
        "Envoy",
        "an inference gateway",
        "SGLang",
    ],
)
def test_what_is_no_engine_is_named(text: str, what: str) -> None:
    assert what in read(text).not_an_engine


@pytest.mark.parametrize("name", captured.TEXT_NAMES)
def test_every_recorded_server_is_an_engine(name: str) -> None:
    assert read(captured.text(name)).not_an_engine == ""


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE vllm:prompt_tokens counter\n# EOF\n",
        'vllm:cache_config_info{block_size="16"} 1\n',
        'vllm:avg_generation_throughput_toks_per_s{model_name="m"} 0\nvllm:num_requests_running{model_name="m"} 0\n',
        'ray_vllm_generation_tokens{model_name="m",WorkerId="w"} 5\n',
        engine_body(model="m", version="1"),
        "python_info 1\nhttp_requests_total 5\n",
    ],
    ids=["types only", "v0 before its first request", "before 0.3", "Ray", "Triton", "nothing to tell by"],
)
def test_an_engine_is_not_taken_for_something_else(text: str) -> None:
    assert read(text).not_an_engine == ""
