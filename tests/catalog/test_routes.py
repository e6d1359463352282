"""Which routes are work for an engine."""

from __future__ import annotations

from rows import for_each

from vllm_sidecar.catalog.routes import reaches_an_engine


@for_each(
    "handler",
    [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v2/embed",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v2/rerank",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/invocations",
        "/generative_scoring",
        "/inference/v1/generate",
        "/prefix/of/a/proxy/v1/completions",
    ],
)
def test_work_for_an_engine(handler: str) -> None:
    assert reaches_an_engine(handler, "POST")
    assert not reaches_an_engine(handler, "GET")


@for_each(
    "handler",
    [
        "none",
        "/tokenize",
        "/detokenize",
        "/v1/messages/count_tokens",
        "/v1/completions/render",
        "/v1/chat/completions/render",
        "/v1/responses/{response_id}/cancel",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/sleep",
        "/wake_up",
        "/pause",
        "/resume",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/scale_elastic_ep",
        "/is_scaling_elastic_ep",
        "/start_profile",
        "/ping",
        "/v1/models",
        "/health",
        "",
    ],
)
def test_what_the_front_end_does_by_itself(handler: str) -> None:
    assert not reaches_an_engine(handler, "POST")
