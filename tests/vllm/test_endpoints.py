"""Bodies of real introspection endpoints, and bodies that are none."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import CAPTURES

from vllm_sidecar.vllm.probes.endpoints import (
    MAX_MODELS,
    parse_cache_config,
    parse_load,
    parse_models,
    parse_server_info,
    parse_version,
)
from vllm_sidecar.vllm.probes.flags import FLAGS
from vllm_sidecar.vllm.probes.identity import FactSource, IdentityKeeper, ModelCard

CAPTURES = CAPTURES / "endpoints"
PARSERS = [parse_version, parse_models, parse_server_info, parse_load]
SECRET = "hf_ABCDEFGHIJKLMNOPQRSTUVWXYZ"

CACHE_CONFIG = {  # a part of the labels that 0.32.0-preempt shows
    "_block_size_resolved": "True",
    "block_size": "32",
    "cache_dtype": "auto",
    "enable_prefix_caching": "True",
    "engine": "0",
    "gpu_memory_utilization": "0.92",
    "kv_cache_size_tokens": "2112",
    "num_gpu_blocks": "66",
    "num_gpu_blocks_override": "66",
    "sliding_window": "None",
}


def capture(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


def test_the_version_of_a_python_front_end_is_read() -> None:
    assert parse_version(b'{"version":"0.32.0"}').version == "0.32.0"


def test_the_version_of_a_rust_front_end_is_read() -> None:
    facts = parse_version(b'{"version":"0.32.0","rust_frontend_version":"0.4.1"}')
    assert (facts.version, facts.rust_frontend_version) == ("0.32.0", "0.4.1")


def test_models_tell_base_adapters_and_three_flags() -> None:
    facts = parse_models(capture("0.32.0-lora-models.json"))
    assert facts.models == (
        ModelCard("tiny", "/models/tiny", None, 2048),
        ModelCard("ad1", "/models/tiny", "tiny", None),
        ModelCard("ad2", "/models/tiny", "tiny", None),
    )
    assert facts.flags == {"model": "/models/tiny", "served_model_name": "tiny", "max_model_len": 2048}


def test_models_are_cut_to_a_thousand_and_names_to_512_characters() -> None:
    cards = [{"id": "x" * 2000}, *({"id": str(i)} for i in range(5000))]
    models = parse_models(json.dumps({"data": cards}).encode()).models
    assert len(models) == MAX_MODELS
    assert models[0].id == "x" * 512


def test_cards_that_are_none_are_left_out() -> None:
    body = json.dumps({"data": [1, None, {"id": 5}, {"id": "a", "root": [], "parent": 7, "max_model_len": "long"}]})
    assert parse_models(body.encode()).models == (ModelCard("a"),)


NESTED = {
    "model": "/models/tiny",
    "served_model_name": "tiny",
    "max_model_len": 2048,
    "gpu_memory_utilization": 0.92,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "prefill_context_parallel_size": 1,
    "data_parallel_size": 1,
    "data_parallel_size_local": 1,
    "data_parallel_external_lb": False,
    "data_parallel_hybrid_lb": False,
    "data_parallel_backend": "mp",
    "nnodes": 1,
    "distributed_executor_backend": "mp",
    "enable_expert_parallel": False,
    "enable_prefix_caching": True,
    "generation_config": "auto",
    "speculative_config": "none",
    "kv_cache_dtype": "auto",
    "block_size": 128,
    "dtype": "bfloat16",
    "quantization": "none",
    "enforce_eager": True,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 2048,
    "enable_chunked_prefill": True,
    "scheduling_policy": "fcfs",
    "enable_lora": False,
    "tokenizer": "/models/tiny",
    "kv_transfer_config": "none",
    "api_server_count": 1,
    "enable_sleep_mode": False,
    "seed": 0,
}


def test_the_nested_server_info_tells_all_eight_flags_of_the_mission() -> None:
    assert parse_server_info(capture("0.32.0-server_info.json")).flags == NESTED


def test_the_text_form_of_server_info_tells_what_the_nested_one_does() -> None:
    flags = parse_server_info(capture("0.32.0-server_info-text.json")).flags
    assert set(flags) == {
        "model",
        "served_model_name",
        "max_model_len",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "enable_prefix_caching",
        "speculative_config",
        "kv_cache_dtype",
        "dtype",
        "quantization",
        "enforce_eager",
        "enable_chunked_prefill",
        "tokenizer",
        "seed",
    }
    assert flags == {name: NESTED[name] for name in flags}


@pytest.mark.parametrize(
    "config",
    [
        {"speculative_config": {"method": "ngram", "model": "ngram", "num_speculative_tokens": 3, "hf_token": SECRET}},
        "model='x', speculative_config=SpeculativeConfig(method='ngram', model=None, num_spec_tokens=3), seed=0",
    ],
    ids=["nested", "text"],
)
def test_a_speculative_config_is_shown_compactly(config: object) -> None:
    flags = parse_server_info(json.dumps({"vllm_config": config}).encode()).flags
    assert flags["speculative_config"] == "ngram num_speculative_tokens=3"
    assert flags["num_speculative_tokens"] == 3


def test_lora_and_kv_transfer_sections_are_shown_by_what_matters() -> None:
    config = {
        "lora_config": {"max_loras": 4, "max_lora_rank": 64},
        "kv_transfer_config": {"kv_connector": "LMCacheConnectorV1", "kv_connector_extra_config": {"key": SECRET}},
    }
    assert parse_server_info(json.dumps({"vllm_config": config}).encode()).flags == {
        "enable_lora": True,
        "max_loras": 4,
        "max_lora_rank": 64,
        "kv_transfer_config": "LMCacheConnectorV1",
    }


def test_a_token_in_server_info_never_passes() -> None:
    answer = json.loads(capture("0.32.0-server_info.json"))
    answer["vllm_config"]["model_config"]["hf_token"] = SECRET
    answer["vllm_env"]["VLLM_API_KEY"] = SECRET
    keeper = IdentityKeeper(lambda: 0.0)
    keeper.update(FactSource.SERVER_INFO, parse_server_info(json.dumps(answer).encode()))
    assert keeper.identity.flags == NESTED
    assert SECRET not in repr(keeper.identity)


def test_load_tells_requests_in_flight() -> None:
    assert parse_load(b'{"server_load":0}').requests_in_flight == 0.0
    assert parse_load(b'{"server_load":7}').requests_in_flight == 7.0


def test_whitelisted_labels_of_cache_config_info_pass_and_no_others() -> None:
    assert parse_cache_config(CACHE_CONFIG).flags == {
        "gpu_memory_utilization": 0.92,
        "enable_prefix_caching": True,
        "kv_cache_dtype": "auto",
        "block_size": 32,
        "num_gpu_blocks_override": 66,
    }


def test_the_word_none_in_cache_config_info_tells_nothing() -> None:
    assert parse_cache_config({"num_gpu_blocks_override": "None", "enable_prefix_caching": "None"}).flags == {}


BAD = [b"", b"<html>", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000, b'{"version":1,"data":{},"vllm_config":[]}']


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body[:12]))
def test_a_body_that_is_no_answer_of_vllm_is_a_value_error(parse: object, body: bytes) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match=r".+"):
        parse(body)


def test_an_error_holds_nothing_of_the_body() -> None:
    with pytest.raises(ValueError, match=r"^not JSON$"):
        parse_version(b"<p>" + SECRET.encode())


FLAG_NAMES = {flag.name for flag in FLAGS}
PATH_KEYS = sorted({key for flag in FLAGS for path in flag.paths for key in path})
NAMES = st.sampled_from(
    ["version", "data", "id", "root", "parent", "vllm_config", "server_load", "num_spec_tokens", *PATH_KEYS]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "1e999", "9" * 5000, "None", "SpeculativeConfig(method='a', num_spec_tokens=1)", "8k"])
)
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=30
)


@given(st.dictionaries(NAMES, ANY_JSON) | ANY_JSON, st.sampled_from(PARSERS))
def test_any_json_gives_facts_that_can_be_shown_or_a_value_error(answer: object, parse: object) -> None:
    assert callable(parse)
    try:
        facts = parse(json.dumps(answer).encode())
    except ValueError:
        return
    keeper = IdentityKeeper(lambda: 0.0)
    keeper.update(FactSource.SERVER_INFO, facts)
    repr(keeper.identity).encode()
    for name, value in facts.flags.items():
        assert name in FLAG_NAMES
        assert not isinstance(value, str) or len(value) <= 512


@given(st.binary() | st.text().map(str.encode), st.sampled_from(PARSERS))
def test_any_bytes_give_a_value_error_at_worst(body: bytes, parse: object) -> None:
    assert callable(parse)
    with contextlib.suppress(ValueError):
        parse(body)


@given(st.text(alphabet="model=seed'\"\\,()[]{} x1", max_size=200))
def test_any_text_form_is_survived(config: str) -> None:
    parse_server_info(json.dumps({"vllm_config": config}).encode())


@given(st.dictionaries(st.sampled_from(sorted(CACHE_CONFIG)), st.text()))
def test_any_labels_are_survived(labels: dict[str, str]) -> None:
    assert set(parse_cache_config(labels).flags) <= FLAG_NAMES
