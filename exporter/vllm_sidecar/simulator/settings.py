"""Settings of the simulation: the server, which is constant, and the conditions, which change from phase to phase."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vllm_sidecar.config.section import Section
from vllm_sidecar.config.values import not_allowed


class ServerSettings(Section):
    """The simulated server: vLLM's own flags, and the durations of its hardware.

    The defaults are similar to an 8B model on one H100: about 20,000 prompt tokens and 2,000 generated tokens a second.
    """

    model_name: str = "meta-llama/Llama-3.1-8B-Instruct"
    data_parallel_size: int = Field(default=1, ge=1, le=64)
    tensor_parallel_size: int = Field(default=1, ge=1, le=8)
    max_model_len: int = Field(default=8192, ge=16)
    max_num_seqs: int = Field(default=32, ge=1)
    max_num_batched_tokens: int = Field(default=2048, ge=16)
    num_gpu_blocks: int = Field(default=4096, ge=8, description="KV blocks of each engine.")
    block_size: int = Field(default=16, ge=1)
    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)
    enable_prefix_caching: bool = True
    speculative_tokens: int = Field(default=0, ge=0, le=16, description="Draft tokens per step; 0 for no speculation.")
    max_loras: int = Field(default=0, ge=0, description="LoRA adapters in one batch; 0 for no LoRA.")
    adapters: int = Field(default=0, ge=0, description="LoRA adapters that the server offers.")
    step_seconds: float = Field(default=0.008, gt=0, description="Seconds of an empty step.")
    prefill_token_seconds: float = Field(default=0.00005, gt=0, description="Seconds per prompt token of a step.")
    sequence_seconds: float = Field(default=0.00012, ge=0, description="Seconds per decoding sequence of a step.")
    context_token_seconds: float = Field(default=2e-8, ge=0, description="Seconds per token of KV cache in a step.")
    draft_token_seconds: float = Field(default=0.0005, ge=0, description="Seconds per position of a draft.")
    front_end_seconds: float = Field(default=0.004, ge=0, description="Seconds to tokenize and hand over a request.")
    start_seconds: float = Field(default=8.0, gt=0, description="Seconds from a crash until the server listens again.")

    @field_validator("adapters")
    @classmethod
    def _fit_into_a_batch(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("max_loras"):
            raise not_allowed("0 without max_loras: requests of adapters would wait forever")
        return value

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that clients can request."""
        return tuple(f"adapter-{number + 1}" for number in range(self.adapters))


class Conditions(Section):
    """The traffic and the incidents of the server; a scenario changes some of them for a while.

    Lengths are medians of lognormal distributions in tokens, rates are per second.
    """

    rate: float = Field(default=4.0, ge=0, description="Requests per second, arriving as a Poisson process.")
    prompt_tokens: float = Field(default=350.0, ge=1, description="Median length after the prefix.")
    prompt_sigma: float = Field(default=0.6, ge=0)
    output_tokens: float = Field(default=200.0, ge=1)
    output_sigma: float = Field(default=0.5, ge=0)
    prefix_tokens: int = Field(default=512, ge=0, description="Length of the system prompts.")
    prefixes: int = Field(default=4, ge=1, description="Different system prompts.")
    shared_ratio: float = Field(default=0.8, ge=0, le=1, description="Share of requests that begin with one of them.")
    acceptance_ratio: float = Field(default=0.75, ge=0, le=1, description="Chance that a draft token is right.")
    slowdown: float = Field(default=1.0, ge=1, description="Factor by which steps take longer.")
    failing_ratio: float = Field(default=0.0, ge=0, le=1, description="Share of requests with a server error.")
    aborting_ratio: float = Field(default=0.01, ge=0, le=1, description="Share of requests aborted in mid-stream.")
    patience_seconds: float = Field(
        default=120.0, gt=0, description="Seconds without a token after which clients leave."
    )
    skew_ratio: float = Field(default=0.0, ge=0, le=1, description="Share of requests for engine 0 regardless of load.")
    adapters_wanted: int = Field(default=2, ge=1, description="Number of LoRA adapters that clients request.")
    stalled: bool = Field(default=False, description="The engines hang in the middle of a step.")
    sleeping: bool = Field(default=False, description="The engines sleep at level 1; falling asleep aborts requests.")
    clients_gone: bool = Field(default=False, description="All clients leave at once as the phase begins.")
    answers: Literal["right", "other", "empty", "endless", "garbage", "control_tokens"] = Field(
        default="right", description="Answers that clients of /v1/completions and /v1/chat/completions get."
    )
    crash_seconds: float = Field(
        default=0.0, ge=0, description="Seconds from a start of the server to its crash; 0 for never."
    )
