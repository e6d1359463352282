"""Faults of a LoRA adapter of a real vLLM, and the states that the canary reports of it and of its base model.

    VLLM_SIDECAR_SERVE='vllm serve {model} --served-model-name m --port 8000' VLLM_SIDECAR_MODEL=FOLDER \
        python tests/bench/bench_real_adapter.py

The adapter has random weights for the attention of the model, in the form of PEFT. It is served from one path each
time, and its files or the flags are changed in between; the sidecar runs through all of it. The table is in
docs/canary.md. Without the variables nothing is done.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import sys
import tempfile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from bench_real_canary import cell, configuration, settle
from bench_real_faults import server
from sidecar_process import started

if TYPE_CHECKING:
    from collections.abc import Callable

RANK, STRENGTH = 8, 0.3
"""Rank of the adapter, and the standard deviation of its weights: enough to change most tokens."""
PROMPT = {"prompt": "import torch", "max_tokens": 16, "endpoint": "completions"}
BASE, ADAPTER = {"name": "base", "models": ["m"], **PROMPT}, {"name": "adapter", "models": ["sql"], **PROMPT}


def write_adapter(folder: Path, model: Path, seed: int, strength: float = STRENGTH) -> None:
    """Write an adapter with random weights for the query and value projections of a Llama."""
    sizes = json.loads((model / "config.json").read_text())
    width, keys = sizes["hidden_size"], sizes["num_key_value_heads"] * sizes["head_dim"]
    queries = sizes["num_attention_heads"] * sizes["head_dim"]
    shapes: dict[str, tuple[int, int]] = {}
    for layer in range(sizes["num_hidden_layers"]):
        for name, out in (("q_proj", queries), ("v_proj", keys)):
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            shapes |= {f"{place}.lora_A.weight": (RANK, width), f"{place}.lora_B.weight": (out, RANK)}
    folder.mkdir(exist_ok=True)
    facts = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model), "r": RANK,
             "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"], "bias": "none"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(shapes, random.Random(seed), strength))


def safetensors(shapes: dict[str, tuple[int, int]], dice: random.Random, strength: float) -> bytes:
    """Return a file of normally distributed tensors of 32 bits."""
    head, content = {}, b""
    for name, shape in shapes.items():
        values = [dice.gauss(0.0, strength) for _ in range(prod(shape))]
        packed = struct.pack(f"<{len(values)}f", *values)
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": (len(content), len(content) + len(packed))}
        content += packed
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + content


def main() -> None:
    """Play all cases and print a row for each."""
    command, original = os.environ.get("VLLM_SIDECAR_SERVE"), os.environ.get("VLLM_SIDECAR_MODEL")
    if not command or not original:
        print("skipped: set VLLM_SIDECAR_SERVE and VLLM_SIDECAR_MODEL (see the head of this file)")
        return
    model = Path(original)
    with tempfile.TemporaryDirectory() as folder:
        adapter, file = Path(folder, "sql"), Path(folder, "sidecar.yaml")
        lora = ("--enable-lora", "--max-lora-rank", str(RANK))
        loaded = (*lora, "--lora-modules", f"sql={adapter}")

        def files(seed: int, strength: float = STRENGTH) -> Callable[[], None]:
            return lambda: write_adapter(adapter, model, seed, strength)

        cases = (
            ("the same files", files(1), loaded),
            ("an adapter with other weights under its name", files(2), loaded),
            ("an adapter whose weights are all zero", files(1, 0.0), loaded),
            ("a server without the adapter", files(1), lora),
            ("the same files again", files(1), loaded),
        )
        write_adapter(adapter, model, 1)
        configuration(file, BASE, ADAPTER)
        with started("--config.file", str(file)) as (sidecar, url):
            with server(command.format(model=model), *loaded):
                found = settle(url)
                expected = [each | {"expect": {"hash": found[str(each["name"])]["hash"]}} for each in (BASE, ADAPTER)]
                configuration(file, *expected)
                sidecar.process.send_signal(signal.SIGHUP)
                settle(url)
            print("| Change | base model | adapter |\n| --- | --- | --- |", flush=True)
            for name, change, flags in cases:
                change()
                with server(command.format(model=model), *flags):
                    found = settle(url) if flags is loaded else settle(url, "adapter")
                print(f"| {name} | {cell(found['base'])} | {cell(found['adapter'])} |", flush=True)


if __name__ == "__main__":
    main()
