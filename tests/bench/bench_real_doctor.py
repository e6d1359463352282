"""Faults of a real vLLM, and what `doctor` reports of each: the second table of its section in docs/tools.md.

    VLLM_SIDECAR_SERVE='vllm serve {model} --served-model-name m --port 8000 --max-num-seqs 16' \
        VLLM_SIDECAR_MODEL=FOLDER python tests/bench/bench_real_doctor.py [SERVER ...]

Each fault is diagnosed twice: by a doctor that has only the address and comes when the fault is there, and at its end
from a sidecar with a canary that has run since the server started. SERVER is a name of `PLAYS`; all without one.
Clients send one short request a second while nothing is wrong, and one of them measures its latencies: a server that
is slow because its machine is busy is slow in truth. Without the variables nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
from bench_real_canary import LEARNED, configuration, other_template, settle
from bench_real_faults import SMALL_CACHE, URL, Load, engine_core, server
from sidecar_process import sidecar

from vllm_sidecar.catalog.alerts import Profile
from vllm_sidecar.catalog.objectives import SLOS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    import psutil

    Part = Callable[["Bench", psutil.Process], Awaitable[None]]

SECONDS = 30.0
"""For which a doctor with an address observes, unless a case says otherwise."""
WARM = 65.0
"""Seconds until the last minute holds no first requests, which are slow."""
FILLING = 150
"""Most seconds until a small KV cache is full."""
SLOW = frozenset({"slow_first_token", "slow_decode"})
NO_ANSWER = frozenset({"canary_failing"})


GIVEN_UP = SLOW | NO_ANSWER | {"aborting", "failing"}
"""Clients of a hung engine leave without an answer; the minute that the latencies cover began before the hang."""


@dataclass(frozen=True)
class Case:
    """One diagnosis: what is wrong, and what else follows from it.

    `seen` is what a doctor with an address can find, if that differs from what a sidecar with a canary can.
    """

    name: str
    truth: frozenset[str]
    also: frozenset[str] = frozenset()
    seen: frozenset[str] | None = None
    seconds: float = SECONDS


@dataclass
class Scores:
    """Findings, right ones, true causes and found ones, of all cases."""

    found: int = 0
    right: int = 0
    true: int = 0
    hit: int = 0

    def add(self, names: set[str], truth: Iterable[str], also: Iterable[str]) -> None:
        """Count one diagnosis."""
        wanted = set(truth)
        self.found, self.right = self.found + len(names), self.right + len(names & (wanted | set(also)))
        self.true, self.hit = self.true + len(wanted), self.hit + len(names & wanted)

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.found + other.found, self.right + other.right, self.true + other.true, self.hit + other.hit)

    def __str__(self) -> str:
        return f"precision {self.right}/{self.found}, recall {self.hit}/{self.true}"


@dataclass
class Bench:
    """The load, the sidecar and the results of one server."""

    load: Load
    sidecar: str
    address: Scores = field(default_factory=Scores)
    running: Scores = field(default_factory=Scores)

    async def diagnose(self, case: Case, during: Callable[[], None] | None = None) -> None:
        """Diagnose what is wrong now; `during` is called while the doctor with the address observes."""
        measuring = asyncio.create_task(slow_for_a_client(case.seconds))
        at_address = asyncio.create_task(doctor(URL, "--for", f"{case.seconds:g}s"))
        if during:
            await asyncio.sleep(case.seconds / 3)
            during()
        first, second = await at_address, await doctor("--from", self.sidecar)
        seen = case.truth if case.seen is None else case.seen
        also = case.also | await measuring
        self.address.add(names(first), seen, also)
        self.running.add(names(second), case.truth, also)
        print(f"| {case.name} | {cell(first, seen, also)} | {cell(second, case.truth, also)} |", flush=True)
        for report in (first, second):
            for each in report["findings"]:
                print(f"    {each['severity']} {each['finding']}: {each['evidence']}", file=sys.stderr, flush=True)
            print(f"    {report.get('past')}", file=sys.stderr, flush=True)


async def slow_for_a_client(seconds: float) -> set[str]:
    """Send one streaming request after another; return the latencies that miss their objectives for this client."""
    first, gaps = [0.0], [0.0]
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
            while True:
                began = last = time.monotonic()
                body = {"model": "m", "prompt": "import", "max_tokens": 20, "ignore_eos": True, "stream": True}
                async with session.post(f"{URL}/v1/completions", json=body) as answer:
                    async for _ in answer.content.iter_any():
                        now = time.monotonic()
                        (first if last == began else gaps).append(now - last)
                        last = now
    limits = {slo.name: slo.thresholds[Profile.STANDARD] for slo in SLOS if slo.thresholds}
    slow = {
        "slow_first_token": (first, limits["time_to_first_token"]),
        "slow_decode": (gaps, limits["inter_token_latency"]),
    }
    return {name for name, (seen, limit) in slow.items() if sorted(seen)[int(0.95 * len(seen))] > limit}


async def doctor(*arguments: str) -> dict[str, Any]:
    """Run the command as its user does; return its diagnosis."""
    command = (sys.executable, "-m", "vllm_sidecar", "doctor", *arguments, "--format", "json")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    (report,) = json.loads(printed)
    return dict(report)


def names(report: dict[str, Any]) -> set[str]:
    """Return the findings; a full KV cache is one, whether it makes requests wait or has preempted some already."""
    return {each["finding"].replace("queueing:kv_cache", "kv_cache_full") for each in report["findings"]}


def cell(report: dict[str, Any], truth: Iterable[str], also: Iterable[str]) -> str:
    """Return the findings; wrong ones and missing ones are marked."""
    found, wanted = names(report), set(truth)
    shown = [f"`{name}`" if name in wanted | set(also) else f"WRONG `{name}`" for name in sorted(found)]
    return ", ".join([*shown, *(f"MISSED `{name}`" for name in sorted(wanted - found))]) or "nothing"


CALM = Case("calm", frozenset())
FULL = Case("overload", frozenset({"queueing:batch"}), SLOW | NO_ANSWER)
LEFT = Case("all clients leave at once", frozenset(), FULL.truth | FULL.also | {"aborting"})
"""Nothing is wrong with the server; the minute that the latencies cover began before."""
WAITING = Case("SIGSTOP of the engine, 30 s", frozenset({"no_progress"}), GIVEN_UP)
HUNG = Case("SIGSTOP of the engine, 150 s", frozenset({"stalled"}), GIVEN_UP, seconds=125.0)
KILLED = Case("kill -9 of the server", frozenset({"down"}), NO_ANSWER, seconds=10.0)
SEATS = Case("--max-num-seqs 2", frozenset({"queueing:batch"}), SLOW | NO_ANSWER)
CACHE = Case("KV cache too small", frozenset({"kv_cache_full"}), SLOW | NO_ANSWER)
TEMPLATE = Case("another chat template", frozenset({"canary_changed"}), frozenset({"restarting"}), frozenset())


async def faults(bench: Bench, api: psutil.Process) -> None:
    """Calm, overload, a mass abort, a hang and a kill of one server."""
    load = bench.load
    await bench.diagnose(CALM)
    await bench.diagnose(CALM)
    load.rate, load.tokens = 15.0, 250
    await asyncio.sleep(20.0)
    await bench.diagnose(FULL)

    def leave() -> None:
        load.leave()
        load.rate, load.tokens = 1.0, 40

    await bench.diagnose(LEFT, leave)
    await asyncio.sleep(WARM)
    await bench.diagnose(CALM)
    engine_core(api).suspend()
    await bench.diagnose(WAITING)
    await bench.diagnose(HUNG)
    api.kill()
    await bench.diagnose(KILLED)


async def few_seats(bench: Bench, _: psutil.Process) -> None:
    """Send what sixteen seats take to two of them."""
    bench.load.rate, bench.load.tokens = 8.0, 150
    await asyncio.sleep(30.0)
    await bench.diagnose(SEATS)


async def preempts() -> bool:
    """Wait until vLLM's own counter says that it preempts requests; return whether it did in time."""
    async with aiohttp.ClientSession() as session:
        for _ in range(FILLING):
            await asyncio.sleep(1.0)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{URL}/metrics") as answer:
                    found = re.search(r"^vllm:num_preemptions_total\{.*\} (\S+)$", await answer.text(), re.MULTILINE)
                    if found and float(found[1]) > 0.0:
                        return True
    return False


async def small_cache(bench: Bench, _: psutil.Process) -> None:
    """Send long requests to a KV cache that is too small for them."""
    bench.load.rate, bench.load.words, bench.load.tokens = 4.0, 200, 600
    if await preempts():
        await bench.diagnose(CACHE)
    else:
        print("the machine is too slow to fill the KV cache", file=sys.stderr)


async def learned(bench: Bench, _: psutil.Process) -> None:
    """Let the canary learn its baseline."""
    await asyncio.to_thread(settle, bench.sidecar)
    await bench.diagnose(CALM)


async def changed(bench: Bench, _: psutil.Process) -> None:
    """Wait until the canary has sent some requests."""
    await asyncio.to_thread(settle, bench.sidecar)
    await bench.diagnose(TEMPLATE)


@contextmanager
def calm_server(command: str, *flags: str) -> Iterator[tuple[psutil.Process, Load]]:
    """Run a server with flags whose clients send one short request a second."""
    with server(command, *flags) as api:
        load = Load("m")
        load.rate, load.tokens = 1.0, 40
        yield api, load


async def played(command: str, watching: str, part: Part, *flags: str) -> Bench:
    """Play a part to a server with flags, which is calm at first."""
    with calm_server(command, *flags) as (api, load):
        sending = asyncio.create_task(load.run())
        bench = Bench(load, watching)
        try:
            await asyncio.sleep(WARM)
            await part(bench, api)
        finally:
            sending.cancel()
            load.leave()
        return bench


PLAYS: dict[str, tuple[tuple[Part, ...], tuple[str, ...]]] = {
    "faults": ((faults,), ()),
    "seats": ((few_seats,), ("--max-num-seqs", "2")),
    "cache": ((small_cache,), SMALL_CACHE),
    "template": ((learned, changed), ()),
}
"""Parts by name, each with a server of its own and all with one sidecar, and the flags of the servers."""


def main() -> None:
    """Play what is named, print a row for each diagnosis, then precision and recall."""
    command, original = os.environ.get("VLLM_SIDECAR_SERVE"), os.environ.get("VLLM_SIDECAR_MODEL")
    if not command or not original:
        print("skipped: set VLLM_SIDECAR_SERVE and VLLM_SIDECAR_MODEL (see the head of this file)")
        return
    print("| Truth | From the address | From a running sidecar with a canary |\n| --- | --- | --- |", flush=True)
    benches: list[Bench] = []
    for name in sys.argv[1:] or PLAYS:
        parts, flags = PLAYS[name]
        with tempfile.TemporaryDirectory() as folder:
            model, file = Path(folder, "model"), Path(folder, "sidecar.yaml")
            shutil.copytree(original, model)
            configuration(file, LEARNED)
            with sidecar("--config.file", str(file)) as watching:
                for number, part in enumerate(parts):
                    if number:
                        other_template(model)
                    benches.append(asyncio.run(played(command.format(model=model), watching, part, *flags)))
    for title, scores in (("address", [each.address for each in benches]), ("sidecar", [e.running for e in benches])):
        print(f"{title}: {sum(scores, Scores())}")


if __name__ == "__main__":
    main()
