"""How near `saturation_ratio` is to the truth of a real vLLM: the load as a share of the one that breaks the objective.

    VLLM_SIDECAR_TEST_URL=http://127.0.0.1:8000 python tests/bench/bench_saturation_live.py [--seconds N] [--rate N]
        [--objective SECONDS]

The load rises from `--rate` by a quarter at a time, until fewer than 99 % of the first tokens of a stage arrive within
the objective, as the clients measure it, and two more stages halve the distance between the last two. Then the signal
of a sidecar that is started here with that objective is read at shares of that rate, and the rate is measured again: it
moves with the speed of the machine. Server and clients should have cores of their own (`taskset`).

Requests arrive as a Poisson process, in each stage the same one but for its rate, with words of their own, at times
that are fixed before they are sent; where the machine is too busy to send at them, requests come in groups, so the
share of those that are late is shown: the figures of such a stage are about the machine. Without the variable nothing
is done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from contextlib import suppress
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from sidecar_process import started

URL = os.environ.get("VLLM_SIDECAR_TEST_URL", "")
GOOD = 0.99
RISE = 1.25
SHARES = (0.3, 0.5, 0.7, 0.9)
EVERY = 5.0
WINDOW = 60.0
"""The sidecar's window: readings of a stage begin when no older load is in it."""
CALM = 5.0
MOST_STAGES = 16
HALVINGS = 2
PUNCTUAL = 0.5
"""Seconds after its time from which on a request is sent late."""
PROMPT_WORDS, LEAST_TOKENS, MOST_TOKENS = 120, 32, 128


class Stage(NamedTuple):
    """What clients and sidecar saw at one rate."""

    in_time: float
    saturation: list[float]


class Clients:
    """Sends streamed completions at a rate, and measures the first tokens."""

    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        self._session, self._model = session, model
        self._random = random.Random(1)
        self.seconds: list[float] = []
        self.late = 0.0
        """Share of the requests of the last stage that were sent late."""

    async def send(self, rate: float, seconds: float) -> None:
        """Send for so many seconds, and wait for all answers."""
        self.seconds, at, late, sent = [], time.monotonic(), 0, 0
        end, chance = at + seconds, random.Random(1)
        async with asyncio.TaskGroup() as tasks:
            while (at := at + chance.expovariate(rate)) < end:
                words = " ".join(str(self._random.randrange(1000)) for _ in range(PROMPT_WORDS))
                tokens = chance.randint(LEAST_TOKENS, MOST_TOKENS)
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                late += time.monotonic() > at + PUNCTUAL
                sent += 1
                tasks.create_task(self._one(words, tokens))
        self.late = late / max(1, sent)

    async def _one(self, words: str, tokens: int) -> None:
        body = {"model": self._model, "prompt": words, "stream": True, "ignore_eos": True, "max_tokens": tokens}
        began = time.monotonic()
        async with self._session.post(f"{URL}/v1/completions", json=body) as answer:
            answer.raise_for_status()
            first = True
            async for line in answer.content:
                if first and line.startswith(b"data: {"):
                    self.seconds.append(time.monotonic() - began)
                    first = False


async def stage(clients: Clients, sidecar: str, rate: float, seconds: float, warm: float, objective: float) -> Stage:
    """Send at a rate; the readings begin after `warm` seconds."""
    found: list[float] = []

    async def read() -> None:
        await asyncio.sleep(warm)
        while True:
            found.extend(await saturation(sidecar))
            await asyncio.sleep(EVERY)

    reading = asyncio.create_task(read())
    await clients.send(rate, seconds)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    return Stage(sum(each <= objective for each in clients.seconds) / len(clients.seconds), found)


async def saturation(sidecar: str) -> list[float]:
    """Return the signal; empty while it is absent, as it is after a poll that failed."""
    async with aiohttp.ClientSession() as session, session.get(f"{sidecar}/metrics") as answer:
        found = re.search(r"^vllm_sidecar_saturation_ratio\{[^}]*\} (\S+)$", await answer.text(), re.MULTILINE)
    return [float(found[1])] if found else []


async def broken_rate(clients: Clients, sidecar: str, rate: float, seconds: float, objective: float) -> float:
    """Return the rate at which the objective breaks."""

    async def holds(rate: float) -> bool:
        seen = await stage(clients, sidecar, rate, seconds, seconds, objective)
        median = sorted(clients.seconds)[len(clients.seconds) // 2]
        print(
            f"{rate:.2f} requests/s: {seen.in_time:.1%} in time, median {median:.3f} s, {clients.late:.1%} sent late",
            flush=True,
        )
        await asyncio.sleep(CALM)
        return seen.in_time >= GOOD

    for _ in range(MOST_STAGES):
        if not await holds(rate):
            break
        rate *= RISE
    else:
        raise SystemExit(f"the objective still holds at {rate:.1f} requests/s; begin with a higher --rate")
    low, high = rate / RISE, rate
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        low, high = (middle, high) if await holds(middle) else (low, middle)
    return sqrt(low * high)


async def measured(sidecar: str, rate: float, seconds: float, objective: float) -> None:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # vLLM closes idle connections after 5 s
    timeout = aiohttp.ClientTimeout(total=300.0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        async with session.get(f"{URL}/v1/models") as answer:
            model = (await answer.json())["data"][0]["id"]
        clients = Clients(session, model)
        breaks = await broken_rate(clients, sidecar, rate, seconds, objective)
        print("\n| Breaks at, requests/s | Load | In time | Sent late | Saturation (lowest to highest) |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        for share in SHARES:
            seen = await stage(clients, sidecar, share * breaks, WINDOW + seconds, WINDOW, objective)
            if not seen.saturation:
                raise SystemExit(f"{sidecar}/metrics has no vllm_sidecar_saturation_ratio: is {URL} a vLLM server?")
            low, high = min(seen.saturation), max(seen.saturation)
            print(f"| {breaks:.2f} | {share:.0%} | {seen.in_time:.1%} | {clients.late:.1%} | "
                  f"{fmean(seen.saturation):.0%} ({low:.0%} to {high:.0%}) |", flush=True)  # fmt: skip
        again = await broken_rate(clients, sidecar, breaks / RISE**2, seconds, objective)
        print(f"\nAfterwards the objective breaks at {again:.2f} requests/s.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a stage")
    parser.add_argument("--rate", type=float, default=2.0, help="requests per second of the first stage")
    parser.add_argument("--objective", type=float, default=2.5, help="seconds within which a first token is in time")
    given = parser.parse_args()
    if not URL:
        print("skipped: needs VLLM_SIDECAR_TEST_URL, the address of a vLLM server that may be overloaded")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sidecar.yaml")
        name = "time_to_first_token"
        latencies = [{"name": name, "latency": name, "threshold": f"{1000 * given.objective:g}ms"}]
        path.write_text(json.dumps({"vllm": {"url": URL}, "slos": {"latencies": latencies}}))
        with started("--config.file", str(path)) as (_, sidecar):
            asyncio.run(measured(sidecar, given.rate, given.seconds, given.objective))


if __name__ == "__main__":
    main()
