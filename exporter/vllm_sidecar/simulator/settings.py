"""What is simulated: the server, which stays as it started, and the conditions, which change from phase to phase."""

from pydantic import Field

from vllm_sidecar.config.section import Section


class ServerSettings(Section):
    """The simulated server: vLLM's own flags, and what its hardware takes for a step.

    The defaults are of the order of an 8B model on one H100: about 20,000 prompt tokens and 2,000 generated tokens a
    second.
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
    speculative_tokens: int = Field(default=0, ge=0, le=16, description="Draft tokens a step; 0 is no speculation.")
    max_loras: int = Field(default=0, ge=0, description="LoRA adapters in one batch; 0 is no LoRA.")
    adapters: int = Field(default=0, ge=0, description="LoRA adapters that are served.")
    step_seconds: float = Field(default=0.008, gt=0, description="A step with nothing in it.")
    prefill_token_seconds: float = Field(default=0.00005, gt=0, description="Each prompt token of a step.")
    sequence_seconds: float = Field(default=0.00012, ge=0, description="Each sequence that decodes in a step.")
    context_token_seconds: float = Field(default=2e-8, ge=0, description="Each token of KV cache that a step reads.")
    draft_token_seconds: float = Field(default=0.0005, ge=0, description="Each position of a draft.")
    front_end_seconds: float = Field(default=0.004, ge=0, description="Tokenising and handing over a request.")
    start_seconds: float = Field(default=8.0, gt=0, description="From a crash until it listens again.")


class Conditions(Section):
    """The traffic and what befalls the server; a scenario changes some of them for a while.

    Lengths are medians of lognormal distributions in tokens, rates are per second.
    """

    rate: float = Field(default=4.0, ge=0, description="Requests per second, arriving as a Poisson process.")
    prompt_tokens: float = Field(default=350.0, ge=1, description="Median of what follows the prefix.")
    prompt_sigma: float = Field(default=0.6, ge=0)
    output_tokens: float = Field(default=200.0, ge=1)
    output_sigma: float = Field(default=0.5, ge=0)
    prefix_tokens: int = Field(default=512, ge=0, description="Length of the system prompts.")
    prefixes: int = Field(default=4, ge=1, description="Different system prompts.")
    shared_ratio: float = Field(default=0.8, ge=0, le=1, description="Requests that begin with one of them.")
    acceptance_ratio: float = Field(default=0.75, ge=0, le=1, description="Chance that a draft token is right.")
    slowdown: float = Field(default=1.0, ge=1, description="Steps take so many times longer.")
    failing_ratio: float = Field(default=0.0, ge=0, le=1, description="Requests that end as an error of the server.")
    aborting_ratio: float = Field(default=0.01, ge=0, le=1, description="Requests whose client leaves in mid-stream.")
    patience_seconds: float = Field(default=120.0, gt=0, description="Clients leave when no token came for so long.")
    skew_ratio: float = Field(default=0.0, ge=0, le=1, description="Requests sent to engine 0 whatever its load.")
    adapters_wanted: int = Field(default=2, ge=1, description="How many of the LoRA adapters the clients ask for.")
    stalled: bool = Field(default=False, description="The engines hang in the middle of a step.")
    sleeping: bool = Field(default=False, description="The engines sleep at level 1; falling asleep aborts what runs.")
    clients_gone: bool = Field(default=False, description="All clients leave at once as the phase begins.")
    crash_seconds: float = Field(
        default=0.0, ge=0, description="The server crashes after so many seconds up; 0: never."
    )
