"""Wrong output of a real vLLM, and the state that the canary reports: the table of docs/canary.md.

    VLLM_SIDECAR_SERVE='vllm serve {model} --served-model-name m --port 8000' VLLM_SIDECAR_MODEL=FOLDER \
        python tests/bench/bench_real_canary.py

A copy of the model is served from one path with the same flags each time, and its files are changed in between; the
sidecar runs through all of it. Without the variables nothing is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from bench_real_faults import URL, Load, server
from sidecar_process import started

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL, REQUESTS, PATIENCE = 5.0, 4, 120.0
LEARNED = {"name": "chat", "prompt": "import torch", "max_tokens": 5}
"""So short that the answer of the tiny random model has no two replacement characters, which are never a baseline."""
KNOWN = {"name": "known", "prompt": "import torch", "max_tokens": 16, "endpoint": "completions"}


def as_it_was(_: Path) -> None:
    """Change nothing."""


def other_template(model: Path) -> None:
    """Replace the chat template by one of another model."""
    text = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>"
    (model / "chat_template.jinja").write_text(text)


def other_generation_config(model: Path) -> None:
    """Penalize repetition, as a generation config of another model does; requests do not override it."""
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.8}))


def damaged_weights(model: Path) -> None:
    """Overwrite one of a hundred numbers by chance, as a damaged disk or memory does."""
    path, dice = model / "model.safetensors", random.Random(1)
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    for index in dice.sample(range(begin, len(content)), (len(content) - begin) // 200):
        content[index] ^= dice.randrange(256) & 0x7F if index % 2 == 0 else 0x03
    path.write_bytes(content)


def zeroed_weights(model: Path) -> None:
    """Empty the weights, as a file of the right size whose content was never written."""
    path = model / "model.safetensors"
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:begin] + bytes(len(content) - begin))


CASES: tuple[tuple[str, Callable[[Path], None], bool], ...] = (
    ("the same files", as_it_was, False),
    ("the same files, other requests at the same time", as_it_was, True),
    ("another chat template", other_template, False),
    ("repetition_penalty in the generation config", other_generation_config, False),
    ("one of a hundred weights damaged", damaged_weights, False),
    ("weights are all zero", zeroed_weights, False),
    ("the same files again", as_it_was, False),
)


def report(sidecar: str) -> dict[str, dict[str, Any]]:
    """Return what the canary of the sidecar reports, by prompt."""
    with urllib.request.urlopen(f"{sidecar}/api/v1/status", timeout=10) as answer:  # noqa: S310 - loopback
        found = json.load(answer)["targets"][0]["canary"]
    return {each["prompt"]: each for each in found}


def wait(sidecar: str, done: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
    """Wait until the canary reports it."""
    end = time.monotonic() + PATIENCE
    while not done(found := report(sidecar)) and time.monotonic() < end:
        time.sleep(1.0)
    return found


def settle(sidecar: str, *without: str) -> dict[str, dict[str, Any]]:
    """Wait for some more requests with each prompt that were answered; those of prompts in `without` may fail."""

    def answered(found: dict[str, dict[str, Any]]) -> bool:
        watched = [each for name, each in found.items() if name not in without]
        return bool(watched) and all(each["requests"] and not each["reason"] for each in watched)

    before = {name: each["requests"] for name, each in wait(sidecar, answered).items()}
    return wait(sidecar, lambda found: all(found[name]["requests"] >= before[name] + REQUESTS for name in before))


def configuration(path: Path, *prompts: dict[str, Any]) -> None:
    """Write the sidecar's configuration; JSON is YAML."""
    canary = {"enabled": True, "interval": f"{INTERVAL:g}s", "timeout": f"{INTERVAL:g}s", "prompts": prompts}
    path.write_text(json.dumps({"vllm": {"url": URL}, "gpu": {"devices": "none"}, "canary": canary}))


async def under_load(sidecar: str) -> dict[str, dict[str, Any]]:
    """Settle while other requests share the batch."""
    load = asyncio.create_task(Load("m").run())
    try:
        return await asyncio.to_thread(settle, sidecar)
    finally:
        load.cancel()


def main() -> None:
    """Play all cases and print a row for each."""
    command, original = os.environ.get("VLLM_SIDECAR_SERVE"), os.environ.get("VLLM_SIDECAR_MODEL")
    if not command or not original:
        print("skipped: set VLLM_SIDECAR_SERVE and VLLM_SIDECAR_MODEL (see the head of this file)")
        return
    with tempfile.TemporaryDirectory() as folder:
        model, file = Path(folder, "model"), Path(folder, "sidecar.yaml")
        shutil.copytree(original, model)
        configuration(file, LEARNED, KNOWN)
        with started("--config.file", str(file)) as (sidecar, url):
            with server(command.format(model=model)):
                known = settle(url)["known"]["hash"]
                configuration(file, LEARNED, KNOWN | {"expect": {"hash": known}})
                sidecar.process.send_signal(signal.SIGHUP)
                settle(url)
            print("| Change | learned: chat | known hash: completion |\n| --- | --- | --- |", flush=True)
            for name, change, busy in CASES:
                shutil.rmtree(model)
                shutil.copytree(original, model)
                change(model)
                with server(command.format(model=model)):
                    found = asyncio.run(under_load(url)) if busy else settle(url)
                print(f"| {name} | {cell(found['chat'])} | {cell(found['known'])} |", flush=True)


def cell(one: dict[str, Any]) -> str:
    return f"`{one['reason'] or one['output']}` {one['hash']} {one['prompt_hash']}"


if __name__ == "__main__":
    main()
