"""The load of a real vLLM, exported and replayed with `vllm bench serve`: the table of docs/load-tests.md.

    VLLM_SIDECAR_SERVE='vllm serve MODEL --served-model-name m --port 8000' VLLM_SIDECAR_MODEL=FOLDER \
        python tests/bench/bench_real_shape.py [FOLDER]

`vllm` must be on the PATH. A known load is sent to a fresh server and recorded, its shape is exported and replayed on
another fresh server, and the known load is sent once more to a third one: latencies of the replay may differ by
`LATENCY_BOUND`, or by twice as much as those of the same load do. The exit code is 1 outside of the bounds. Recordings
and inputs remain in FOLDER, if it is given. Without the variables nothing is done.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from bench_real_faults import URL, server

from vllm_sidecar.tools.shape.likeness import compared
from vllm_sidecar.tools.shape.profile import read_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm_sidecar.tools.shape.likeness import Row

SECONDS, PREFIXES, SHARED = 90.0, 3, 256
FIRST_ID, LAST_ID = 100, 240
"""Token ids that every tokenizer has."""
LATENCY_BOUND = 0.3
SIDECAR = (sys.executable, "-m", "vllm_sidecar")


class Sent(NamedTuple):
    """One request of the known load: seconds, token ids and output tokens."""

    at: float
    prompt: list[int]
    output: int


def known_load(seed: int = 5) -> list[Sent]:
    """Return chats with one of three shared prefixes, and long prompts with short answers; in bursts."""
    dice = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [dice.randint(FIRST_ID, LAST_ID) for _ in range(count)]

    prefixes = [ids(SHARED) for _ in range(PREFIXES)]
    sent: list[Sent] = []
    at = 4.0  # after the first poll
    while at < SECONDS:
        if dice.random() < 0.7:
            sent.append(Sent(at, dice.choice(prefixes) + ids(dice.randint(10, 100)), dice.randint(15, 45)))
        else:
            sent.append(Sent(at, ids(dice.randint(500, 800)), dice.randint(3, 10)))
        at += dice.expovariate(2.0 if at % 30.0 < 6.0 else 0.4)
    return sent


async def send(model: str, load: list[Sent]) -> None:
    """Send each request at its time, and wait for all answers."""
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(request: Sent) -> None:
            await asyncio.sleep(began + request.at - time.monotonic())
            body = {"model": model, "prompt": request.prompt, "max_tokens": request.output}
            more = {"ignore_eos": True, "stream": True}
            async with session.post(f"{URL}/v1/completions", json=body | more) as answer:
                answer.raise_for_status()
                await answer.read()

        await asyncio.gather(*map(one, load))


@contextmanager
def recording(path: Path) -> Iterator[None]:
    """Record the server meanwhile."""
    with subprocess.Popen([*SIDECAR, "record", URL, "-o", str(path)]) as recorder:
        while not path.exists() and recorder.poll() is None:
            time.sleep(0.1)
        time.sleep(3.0)  # the first poll
        try:
            yield
            time.sleep(2.0)  # the last answers are in a poll
        finally:
            recorder.send_signal(signal.SIGINT)


def recorded(path: Path, model: str, work: Callable[[], object]) -> Path:
    """Do the work against a fresh server that has been warmed up, and return the recording of it."""
    with server(os.environ["VLLM_SIDECAR_SERVE"]):
        dice = random.Random(9)
        warm = [Sent(0.3 * n, [dice.randint(FIRST_ID, LAST_ID) for _ in range(600)], 20) for n in range(10)]
        asyncio.run(send(model, warm))
        with recording(path):
            work()
    return path


def shape(path: Path, out: Path, *flags: str) -> None:
    """Export the profile of a recording."""
    prefixes = ("--prefixes", str(PREFIXES))
    subprocess.run([*SIDECAR, "shape", path, "-o", out, *prefixes, *flags], check=True)


def bound(row: Row, same: Row) -> float:
    """Return the largest difference of a row of the replay; of latencies, by what the same load shows."""
    return row.bound if row.bound is not None else max(LATENCY_BOUND, 2.0 * abs(same.difference or 0.0))


def main(folder: Path) -> int:
    """Print the table; return 1 if the replay is another load, or has other latencies."""
    load, path = known_load(), os.environ["VLLM_SIDECAR_MODEL"]
    served = os.environ["VLLM_SIDECAR_SERVE"].partition("--served-model-name ")[2].split()[0]
    first = recorded(folder / "known.gz", served, lambda: asyncio.run(send(served, load)))
    shape(first, folder / "load", "--for", "vllm-bench", "--url", URL)
    command = ["sh", str(folder / "load/vllm-bench.sh"), "--tokenizer", path, "--result-dir", str(folder)]
    replay = recorded(folder / "replay.gz", served, lambda: subprocess.run(command, check=True))
    again = recorded(folder / "again.gz", served, lambda: asyncio.run(send(served, load)))
    profiles = [read_profile(folder / "load/profile.json")]
    for source, name in ((replay, "replay"), (again, "again")):
        shape(source, folder / name)
        profiles.append(read_profile(folder / name / "profile.json"))
    rows, same = compared(profiles[0], profiles[1]), compared(profiles[0], profiles[2])
    print(f"{len(load)} requests were sent; {os.cpu_count()} cores")
    print("| | Known load | Its replay | Bound | The known load again |\n| --- | --- | --- | --- | --- |")
    failed = []
    for row, other in zip(rows, same, strict=True):
        form = ".1%" if row.relative else ".3f"
        shown = [f"{each.difference:+{form}}" if each.difference is not None else "unknown" for each in (row, other)]
        if row.difference is not None and abs(row.difference) > bound(row, other):
            failed.append(row.name)
        known = "unknown" if row.expected is None else f"{row.expected:.4g}"
        print(f"| {row.name} | {known} | {shown[0]} | {bound(row, other):{form}} | {shown[1]} |")
    print(f"outside of the bounds: {', '.join(failed)}" if failed else "all within the bounds")
    return int(bool(failed))


if __name__ == "__main__":
    if not {"VLLM_SIDECAR_SERVE", "VLLM_SIDECAR_MODEL"} <= os.environ.keys():
        sys.exit("set VLLM_SIDECAR_SERVE to the command of a server on port 8000, and VLLM_SIDECAR_MODEL to its folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # servers end with it
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
