"""The sidecar in a memory cgroup of 64 MiB next to a server whose bodies are made to cost memory.

    sudo python tests/bench/bench_memory_floods.py [SECONDS]     20 by default, for each

Each flood has a program of its own, which is scraped each second. A line says how much was charged at most, whether
the kernel ended it, and which reason or limit was counted. It needs to make cgroups, which root may do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "faults"), str(HERE.parent / "support")]

from bench_memory import Group  # noqa: E402 - the helpers of the tests are beside this folder
from bodies import recorded, with_engines  # noqa: E402
from sidecar_process import started  # noqa: E402
from upstream import BODY, Upstream, http  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

MEBIBYTES = 64
SEEN = re.compile(r'(?:poll_failures_total|limit_hits_total)\{source="vllm",\w+="(\w+)"\} [1-9]')


def lines(line: str, many: int, *, new: bool = True) -> Callable[[], bytes]:
    """Return a function that answers with many lines, other ones at each poll if `new`."""
    first = itertools.count(0, 1_000_000 if new else 0)

    def answer() -> bytes:
        start = next(first)
        return http(BODY.text() + "\n".join(line.format(n=start + n, m=n % 2900) for n in range(many)) + "\n")

    return answer


NAMED = 'vllm:num_requests_running{{engine="{n}",model_name="MMM"}} 1'
ENGINE = 'vllm:num_requests_running{{engine="{n}",model_name="m{n}"}} 1'
FLOODS: dict[str, Callable[[], bytes]] = {
    "150,000 series, new ones at each poll": lines('other_{m}{{a="{n}",b="c"}} 1', 150_000),
    "2,600 series, new ones at each poll": lines('other_{m}{{a="{n}",b="c"}} 1', 2600),
    "7,000 engines, new ones at each poll": lines(ENGINE, 7000),
    "1,800 engines, new ones at each poll": lines(ENGINE, 1800),
    "20,000 handlers": lines('http_requests_total{{handler="/r{n}",method="GET",status="2xx"}} 1', 20_000, new=False),
    "1,200 handlers, new ones at each poll": lines(
        'http_requests_total{{handler="/r{n}",method="GET",status="2xx"}} 1', 1200
    ),
    "label values of 20 kB": lines(NAMED.replace("MMM", "m" * 20_000), 440),
    "names of 1,000 suffixes": lines("vllm:x{n}" + "_total" * 1000 + " 1", 20),
    "15 MB of comments": lines("# " + "a" * 38, 375_000, new=False),
    "one line of 15 MB": lines('x{{a="' + "a" * 15_000_000 + '"}} 1', 1, new=False),
    "a body that says it is gzip": lambda: http(b"\x1f\x8b" + b"\0" * 100_000, headers="Content-Encoding: gzip\r\n"),
    "256 engines": lambda: http(with_engines(next(iter(recorded())), 256)),
}


def scraped(base: str) -> str:
    with urllib.request.urlopen(f"{base}/metrics", timeout=30) as answer:  # noqa: S310 - loopback
        return str(answer.read().decode())


async def measure(upstream: Upstream, name: str, seconds: float) -> None:
    group = Group(MEBIBYTES)
    try:
        with started("--vllm.url", f"{upstream.url}/a", joins=group.add) as (sidecar, base):
            await asyncio.sleep(3.0)
            upstream.faults["a", "/metrics"] = FLOODS[name]
            end, seen, longest = time.monotonic() + seconds, "", 0.0
            while time.monotonic() < end and sidecar.process.poll() is None:
                began = time.monotonic()
                try:
                    seen = await asyncio.to_thread(scraped, base)
                except OSError:  # it was killed; the line below says so
                    break
                longest = max(longest, time.monotonic() - began)
                await asyncio.sleep(1.0)
        counted = ", ".join(dict.fromkeys(SEEN.findall(seen))) or "nothing"
        print(f"{name}: at most {group.peak:.0f} MiB charged, {group.kills} killed; counted {counted}; the longest "
              f"scrape {longest:.1f} s", flush=True)  # fmt: skip
    finally:
        upstream.faults.clear()
        group.remove()


async def main() -> None:
    if os.geteuid() != 0:
        print("skipped: only root may make a cgroup")
        return
    os.environ["VLLM_SIDECAR_GPU_DEVICES"] = "none"
    async with Upstream() as upstream:
        for name in FLOODS:
            await measure(upstream, name, float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)


if __name__ == "__main__":
    asyncio.run(main())
