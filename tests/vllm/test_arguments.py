"""vLLM command lines as people write them, and what of them is shown."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sidecar.vllm.probes.arguments import parse_arguments, server_arguments
from vllm_sidecar.vllm.probes.flags import FLAGS

SECRET = "sk-Zq81-very-secret"


def flags(line: str) -> dict[str, object]:
    return dict(parse_arguments(shlex.split(line)).flags)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "/venv/bin/python3.11 /venv/bin/vllm serve /models/tiny --served-model-name tiny --host 127.0.0.1 "
            "--port 8000 --max-model-len 2048 --max-num-seqs 16 --enable-prefix-caching --enforce-eager",
            {
                "model": "/models/tiny",
                "served_model_name": "tiny",
                "max_model_len": 2048,
                "enable_prefix_caching": True,
                "enforce_eager": True,
                "max_num_seqs": 16,
            },
            id="a real command line of 0.32.0 is read whole",
        ),
        pytest.param(
            "python -m vllm.entrypoints.openai.api_server --model m --gpu_memory_utilization=0.85",
            {"model": "m", "gpu_memory_utilization": 0.85},
            id="the module of older versions and underscores are understood",
        ),
        pytest.param(
            "vllm serve m -tp 4 -pp=2 -dp 8 -ep -q awq -asc 2",
            {
                "model": "m",
                "tensor_parallel_size": 4,
                "pipeline_parallel_size": 2,
                "data_parallel_size": 8,
                "enable_expert_parallel": True,
                "quantization": "awq",
                "api_server_count": 2,
            },
            id="short forms are understood",
        ),
        pytest.param(
            "vllm serve m --no-enable-prefix-caching --no-enable-chunked-prefill",
            {"model": "m", "enable_prefix_caching": False, "enable_chunked_prefill": False},
            id="--no- turns a flag off",
        ),
        pytest.param(
            "vllm serve --enable-chunked-prefill False m --enable-prefix-caching=true",
            {"model": "m", "enable_chunked_prefill": False, "enable_prefix_caching": True},
            id="a bool may have a word as in V0",
        ),
        pytest.param(
            """vllm serve m --speculative-config '{"method": "ngram", "num_speculative_tokens": 3}'""",
            {"model": "m", "speculative_config": "ngram num_speculative_tokens=3", "num_speculative_tokens": 3},
            id="the speculative config is JSON",
        ),
        pytest.param(
            "vllm serve m --speculative-config.method eagle3 --speculative-config.model=org/head "
            "-sc.num_speculative_tokens 5",
            {
                "model": "m",
                "speculative_config": "eagle3 org/head num_speculative_tokens=5",
                "num_speculative_tokens": 5,
            },
            id="the speculative config is dotted",
        ),
        pytest.param(
            "vllm serve m --spec-method mtp --spec-tokens 1",
            {"model": "m", "speculative_config": "mtp num_speculative_tokens=1", "num_speculative_tokens": 1},
            id="the speculative config is given by shortcuts",
        ),
        pytest.param(
            "vllm serve m --speculative-model [ngram] --num-speculative-tokens 4",
            {"model": "m", "speculative_config": "ngram num_speculative_tokens=4", "num_speculative_tokens": 4},
            id="the speculative config is given as in V0",
        ),
        pytest.param(
            """vllm serve m --kv-transfer-config '{"kv_connector":"NixlConnector","kv_ip":"10.1.2.3"}'""",
            {"model": "m", "kv_transfer_config": "NixlConnector"},
            id="of the KV transfer config only the connector is shown",
        ),
        pytest.param(
            "vllm serve m --served-model-name alpha beta --max-model-len 32k --max-num-batched-tokens 8K",
            {"model": "m", "served_model_name": "alpha", "max_model_len": 32000, "max_num_batched_tokens": 8192},
            id="the first of several names counts and numbers may have suffixes",
        ),
        pytest.param(
            "vllm serve m --max-model-len auto --max-num-seqs lots --gpu-memory-utilization nan",
            {"model": "m"},
            id="values that are none are left out",
        ),
        pytest.param(
            "vllm serve m --chat-template /etc/templates/chat.jinja",
            {"model": "m", "chat_template": "chat.jinja"},
            id="a chat template is shown by its file name",
        ),
        pytest.param(
            "vllm serve m --chat-template '{{ bos }}'",
            {"model": "m", "chat_template": "inline"},
            id="a chat template is never shown itself",
        ),
        pytest.param(
            "vllm serve https://me:pw@host/m?token=abc --seed -1",
            {"model": "https://host/m", "seed": -1},
            id="URLs lose user part and query",
        ),
        pytest.param(
            "org/m --generation-config vllm --kv-cache-dtype fp8",
            {"model": "org/m", "generation_config": "vllm", "kv_cache_dtype": "fp8"},
            id="what follows vllm serve is enough",
        ),
        pytest.param(
            "vllm serve --trust-remote-code m --reasoning-parser r --seed 1",
            {"seed": 1},
            id="a bare word after an unknown option is not taken for the model",
        ),
        pytest.param("vllm serve -- m --seed 1", {}, id="nothing is read after two dashes"),
        pytest.param("", {}, id="nothing gives nothing"),
    ],
)
def test_a_command_line_gives(line: str, expected: dict[str, object]) -> None:
    assert flags(line) == expected


def test_every_flag_of_the_mission_is_read_from_a_command_line() -> None:
    line = (
        "vllm serve m --max-model-len 1 --gpu-memory-utilization 0.5 --tensor-parallel-size 1"
        " --pipeline-parallel-size 1 --enable-prefix-caching --generation-config auto --speculative-config.method ngram"
        " --kv-cache-dtype auto"
    )
    assert set(flags(line)) - {"model"} == {
        "max_model_len",
        "gpu_memory_utilization",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "enable_prefix_caching",
        "generation_config",
        "speculative_config",
        "kv_cache_dtype",
    }


@pytest.mark.parametrize(
    ("line", "server"),
    [
        ("vllm serve m", True),
        ("numactl -N 0 /opt/bin/vllm serve m", True),
        ("python3 /venv/lib/python3.11/site-packages/vllm/entrypoints/openai/api_server.py --port 1", True),
        ("python3 -m vllm.entrypoints.cli.main serve m", True),
        ("vllm bench serve --port 8000", False),
        ("vllm-sidecar serve --vllm.url http://localhost:8000", False),
        ("VLLM::EngineCore", False),
        ("bash -c 'vllm serve m'", False),
        ("vllm", False),
    ],
)
def test_a_server_is_told_from_other_programs(line: str, server: bool) -> None:
    assert (server_arguments(shlex.split(line)) is not None) is server


def test_the_listening_address_is_read() -> None:
    told = parse_arguments(["vllm", "serve", "m", "--host=::1", "--port", "9001", "--uds", "/run/v.sock"])
    assert (told.host, told.port, told.uds, told.headless) == ("::1", 9001, "/run/v.sock", False)
    assert parse_arguments(["vllm", "serve", "m"]).port == 8000
    assert parse_arguments(["vllm", "serve", "--config", "c.yaml"]).port is None
    assert parse_arguments(["vllm", "serve", "m", "--headless"]).headless


PARTS = st.sampled_from(
    [f"--{flag.name}" for flag in FLAGS]
    + [
        "--max-model-len=1",
        "-tp",
        "--speculative-config.a.b",
        "--kv-transfer-config+",
        "-",
        "--",
        "{",
        "[]",
        "=",
        "--=",
    ]
)


@given(st.lists(st.text() | PARTS))
def test_no_command_line_makes_the_parser_raise(argv: list[str]) -> None:
    told = parse_arguments(argv)
    json.dumps(dict(told.flags), ensure_ascii=False).encode()
    assert set(told.flags) <= {flag.name for flag in FLAGS}


@given(
    before=st.lists(st.sampled_from(["--enforce-eager", "-tp=2", "--seed=1", "--disable-log-requests"]), max_size=3),
    spelling=st.sampled_from(
        [
            ["--api-key", SECRET],
            [f"--api-key={SECRET}"],
            ["--api_key", "other", SECRET],
            ["--api-key", f"-{SECRET}"],
            ["--hf-token", SECRET],
            ["--hf_token", SECRET],
            ["--ssl-keyfile", SECRET],
            ["--some-new-secret", SECRET],
            ["--future.option", SECRET],
            ["-x", SECRET],
        ]
    ),
    after=st.lists(st.sampled_from(["--enforce-eager", "org/model", "--model", "--dtype=auto"]), max_size=3),
    serve=st.booleans(),
)
def test_a_secret_never_passes(before: list[str], spelling: list[str], after: list[str], serve: bool) -> None:
    argv = (["vllm", "serve"] if serve else []) + before + spelling + after
    assert SECRET not in repr(parse_arguments(argv))
