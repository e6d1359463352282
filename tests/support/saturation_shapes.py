"""Servers and requests with which the saturation signal is compared with the truth, in the order they were written."""

from __future__ import annotations

from simulated_load import Shape

ALONE = {"prefix_tokens": 0, "shared_ratio": 0.0}
FIRST = {
    "batch": Shape({"max_num_seqs": 16}, {**ALONE, "prompt_tokens": 200.0, "output_tokens": 300.0}, 3.854),
    "KV cache": Shape({"max_num_seqs": 64}, {"prompt_tokens": 2500.0, "output_tokens": 700.0}, 1.11),
    "prefill": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 16384},
        {**ALONE, "prompt_tokens": 3000.0, "prompt_sigma": 0.4, "output_tokens": 30.0},
        4.564,
    ),
    "adapter": Shape({"max_loras": 4, "adapters": 8}, {"adapters_wanted": 8, "output_tokens": 100.0}, 5.781),
    "mixed": Shape(
        {"max_num_seqs": 48, "num_gpu_blocks": 3072},
        {"prompt_tokens": 900.0, "prompt_sigma": 1.0, "output_tokens": 250.0, "output_sigma": 0.9},
        4.037,
    ),
}
HELD_OUT = {
    "large model, batch": Shape(
        {"max_num_seqs": 24, "step_seconds": 0.03, "sequence_seconds": 0.0008, "prefill_token_seconds": 0.0002},
        {"prompt_tokens": 300.0, "output_tokens": 150.0},
        1.766,
    ),
    "small model, decode": Shape(
        {"max_num_seqs": 64, "step_seconds": 0.02, "sequence_seconds": 0.001, "prefill_token_seconds": 0.00002},
        {**ALONE, "prompt_tokens": 100.0, "output_tokens": 120.0, "output_sigma": 0.8},
        4.969,
    ),
    "slow prefill": Shape(
        {"max_num_seqs": 128, "max_num_batched_tokens": 1024, "prefill_token_seconds": 0.0003, "step_seconds": 0.02},
        {**ALONE, "prompt_tokens": 800.0, "output_tokens": 40.0},
        1.752,
    ),
    "small cache": Shape(
        {"max_num_seqs": 128, "num_gpu_blocks": 1500, "step_seconds": 0.02},
        {"prompt_tokens": 700.0, "output_tokens": 300.0, "prompt_sigma": 0.8},
        1.202,
    ),
    "two slots": Shape(
        {"max_loras": 2, "adapters": 3, "step_seconds": 0.015}, {"adapters_wanted": 3, "output_tokens": 60.0}, 2.884
    ),
    "three slots": Shape(
        {"max_loras": 3, "adapters": 12, "step_seconds": 0.01}, {"adapters_wanted": 12, "output_tokens": 150.0}, 1.229
    ),
}
SECOND = {
    "documents": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 2500, "step_seconds": 0.025, "prefill_token_seconds": 0.00008},
        {**ALONE, "prompt_tokens": 1800.0, "prompt_sigma": 0.9, "output_tokens": 150.0, "output_sigma": 0.7},
        1.363,
    ),
    "shared prefix": Shape(
        {"max_num_seqs": 96, "num_gpu_blocks": 1000, "step_seconds": 0.03},
        {"prefix_tokens": 2000, "prompt_tokens": 250.0, "prompt_sigma": 0.7, "output_tokens": 120.0},
        1.197,
    ),
    "extraction": Shape(
        {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "prefill_token_seconds": 0.00015, "step_seconds": 0.015},
        {**ALONE, "prompt_tokens": 1500.0, "prompt_sigma": 0.8, "output_tokens": 20.0},
        1.557,
    ),
}
THIRD = {
    "code completion": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 8192, "step_seconds": 0.012, "prefill_token_seconds": 0.00006},
        {**ALONE, "prompt_tokens": 2000.0, "prompt_sigma": 0.5, "output_tokens": 50.0, "output_sigma": 0.8},
        5.367,
    ),
    "long answers": Shape(
        {"max_num_seqs": 24, "num_gpu_blocks": 8192, "step_seconds": 0.03, "sequence_seconds": 0.0003},
        {**ALONE, "prompt_tokens": 200.0, "output_tokens": 2000.0},
        0.179,
    ),
    "retrieval": Shape(
        {"max_num_seqs": 48, "num_gpu_blocks": 6144, "step_seconds": 0.02, "prefill_token_seconds": 0.00012},
        {
            "prefix_tokens": 3200,
            "prefixes": 8,
            "shared_ratio": 0.9,
            "prompt_tokens": 500.0,
            "prompt_sigma": 0.7,
            "output_tokens": 200.0,
        },
        3.277,
    ),
    "classification": Shape(
        {"max_num_seqs": 64, "step_seconds": 0.03, "prefill_token_seconds": 0.0004},
        {**ALONE, "prompt_tokens": 100.0, "prompt_sigma": 0.3, "output_tokens": 1.0, "output_sigma": 0.0},
        21.629,
    ),
    "agents": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 4096, "step_seconds": 0.015, "prefill_token_seconds": 0.0001},
        {
            "prefix_tokens": 1500,
            "prefixes": 2,
            "shared_ratio": 1.0,
            "prompt_tokens": 1200.0,
            "prompt_sigma": 1.0,
            "output_tokens": 120.0,
            "output_sigma": 1.0,
        },
        3.109,
    ),
}
FOURTH = {
    "rerank": Shape(
        {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "step_seconds": 0.02, "prefill_token_seconds": 0.0001},
        {**ALONE, "prompt_tokens": 400.0, "prompt_sigma": 0.4, "output_tokens": 1.0, "output_sigma": 0.0},
        20.868,
    ),
    "embedding": Shape(
        {"max_num_seqs": 128, "num_gpu_blocks": 8192, "step_seconds": 0.01, "prefill_token_seconds": 0.00006},
        {**ALONE, "prompt_tokens": 2000.0, "prompt_sigma": 0.6, "output_tokens": 1.0, "output_sigma": 0.0},
        5.472,
    ),
    "moderation": Shape(
        {"max_num_seqs": 8, "step_seconds": 0.04, "prefill_token_seconds": 0.0002},
        {**ALONE, "prompt_tokens": 50.0, "prompt_sigma": 0.8, "output_tokens": 1.0, "output_sigma": 0.0},
        53.293,
    ),
    "labels": Shape(
        {"max_num_seqs": 64, "step_seconds": 0.025, "prefill_token_seconds": 0.0003},
        {**ALONE, "prompt_tokens": 100.0, "prompt_sigma": 0.5, "output_tokens": 2.0, "output_sigma": 0.0},
        27.209,
    ),
    "system prompt": Shape(
        {"max_num_seqs": 128, "num_gpu_blocks": 700, "step_seconds": 0.02},
        {"prefix_tokens": 3000, "prefixes": 1, "shared_ratio": 1.0, "prompt_tokens": 60.0, "output_tokens": 150.0},
        8.008,
    ),
    "two prefixes": Shape(
        {"max_num_seqs": 96, "num_gpu_blocks": 1000, "step_seconds": 0.025},
        {
            "prefix_tokens": 1600,
            "prefixes": 2,
            "shared_ratio": 0.9,
            "prompt_tokens": 300.0,
            "prompt_sigma": 0.8,
            "output_tokens": 250.0,
        },
        1.135,
    ),
    "examples": Shape(
        {"max_num_seqs": 64, "num_gpu_blocks": 1500, "step_seconds": 0.02, "prefill_token_seconds": 0.0001},
        {"prefix_tokens": 1600, "prefixes": 6, "shared_ratio": 1.0, "prompt_tokens": 550.0, "output_tokens": 80.0},
        4.809,
    ),
    "conversations": Shape(
        {"max_num_seqs": 128, "num_gpu_blocks": 3000, "step_seconds": 0.02},
        {"prefix_tokens": 400, "prefixes": 120, "shared_ratio": 1.0, "prompt_tokens": 300.0, "output_tokens": 300.0},
        4.155,
    ),
    "bursts": Shape(
        {"max_num_seqs": 48, "num_gpu_blocks": 8192},
        {"prompt_tokens": 600.0, "output_tokens": 200.0},
        6.384,
        bursts=3.0,
    ),
}
FIFTH = {
    "tags": Shape(
        {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "step_seconds": 0.02, "prefill_token_seconds": 0.0002},
        {**ALONE, "prompt_tokens": 200.0, "prompt_sigma": 0.5, "output_tokens": 5.0, "output_sigma": 0.3},
        20.197,
    ),
    "passages": Shape(
        {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "num_gpu_blocks": 8192, "step_seconds": 0.02},
        {**ALONE, "prompt_tokens": 900.0, "prompt_sigma": 0.5, "output_tokens": 1.0, "output_sigma": 0.0},
        17.529,
    ),
    "pages": Shape(
        {"max_num_seqs": 64, "step_seconds": 0.03, "prefill_token_seconds": 0.0001},
        {**ALONE, "prompt_tokens": 900.0, "prompt_sigma": 0.7, "output_tokens": 1.0, "output_sigma": 0.0},
        6.44,
    ),
}
GROUPS = {"first": FIRST, "held-out": HELD_OUT, "second": SECOND, "third": THIRD, "fourth": FOURTH, "fifth": FIFTH}
"""The model was chosen on the first; it was corrected after the errors of the held-out ones, and again after those of
the second and third. The fourth were held out from its last change but one, and the last was made after the errors of
`embedding` and `labels`; the fifth were held out from that. Nothing in it is a constant of one shape."""
