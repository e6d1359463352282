"""Stands for `vllm bench serve` where vLLM is not installed: sends a timed trace of token ids, as that does.

python bench_client.py bench serve --dataset-path TRACE --base-url URL --model NAME ...
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

LEAST_ID, IDS = 100, 30_000


def arguments(given: list[str]) -> argparse.Namespace:
    """Read the flags of `vllm bench serve` that the script of a profile uses; the others change only its report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs=2)
    for name in ("--dataset-path", "--base-url", "--model", "--dataset-name", "--tokenizer"):
        parser.add_argument(name, required=True)
    parser.add_argument("--timed-trace-chunk-hash-size", dest="block", type=int, required=True)
    parser.add_argument("--num-prompts", type=int, required=True)
    found, _ = parser.parse_known_args(given)
    if (found.words, found.dataset_name) != (["bench", "serve"], "timed_trace"):
        parser.error("not the benchmark of a timed trace")
    return found


def prompt(hashes: list[int], length: int, block: int) -> list[int]:
    """Return tokens that are equal where the hashes of blocks are."""
    ids = [LEAST_ID + (each * 7919 + place) % IDS for each in hashes for place in range(block)]
    return ids[:length]


async def send(given: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    """Send each request at its time; return how many failed."""
    began = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(row: dict[str, Any]) -> bool:
            await asyncio.sleep(began + row["timestamp"] - time.monotonic())
            tokens = prompt(row["hash_ids"], row["input_length"], given.block)
            body = {"model": given.model, "prompt": tokens, "max_tokens": row["output_length"]}
            more = {"ignore_eos": True, "stream": True}
            async with session.post(f"{given.base_url}/v1/completions", json=body | more) as answer:
                await answer.read()
                return answer.status == 200

        return (await asyncio.gather(*map(one, rows))).count(False)


if __name__ == "__main__":
    flags = arguments(sys.argv[1:])
    trace = Path(flags.dataset_path).read_text().splitlines()
    failed = asyncio.run(send(flags, [json.loads(line) for line in trace[: flags.num_prompts]]))
    sys.exit(f"{failed} requests failed" if failed else 0)
