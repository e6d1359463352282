"""What `compare` reports of a real vLLM: equal servers, other lengths, other flags, and LoRA adapters.

    VLLM_SIDECAR_SERVE='vllm serve {model} --served-model-name m --port 8000 --max-num-seqs 16' \
        VLLM_SIDECAR_MODEL=FOLDER python tests/bench/bench_real_compare.py [PART ...]

One server is compared with itself, live and as recordings of two minutes that follow each other, then with itself
under other requests, and with the servers of `OTHERS`, which run after it. The adapter of another server has random
weights. PART is a name of `PARTS`; all without one. Without the variables nothing is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_real_adapter import RANK, write_adapter
from bench_real_faults import SMALL_CACHE, URL, Load, server

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW, WARM = 60, 20.0
OTHERS = {
    "another server with the same flags": (),
    "--max-num-seqs 1 instead of 16": ("--max-num-seqs", "1"),
    "without prefix caching": ("--no-enable-prefix-caching",),
    "a small KV cache": SMALL_CACHE,
}
ITSELF = URL.replace("127.0.0.1", "localhost")
"""The same server under another name."""


def calm() -> Load:
    """Return the load that the others are compared with."""
    load = Load("m")
    load.rate, load.words, load.tokens, load.shared = 6.0, 60, 20, 300
    return load


async def program(*arguments: str) -> str:
    """Run the program as its user does; return what it prints."""
    command = (sys.executable, "-m", "vllm_sidecar", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return printed.decode()


async def recorded(folder: Path, name: str) -> str:
    """Record the server for one window."""
    path = str(folder / f"{name}.vllm-recording.gz")
    await program("record", URL, "-o", path, "--for", f"{WINDOW}s")
    return path


async def compared(title: str, *sides: str) -> None:
    """Print a row about a comparison."""
    arguments: Sequence[str] = ("--for", f"{WINDOW}s") if "://" in sides[0] else ()
    report: dict[str, Any] = json.loads(await program("compare", *sides, *arguments, "--format", "json"))
    print(f"| {title} | {report['result']} | {differences(report)} | {explained(report)} |", flush=True)


def differences(report: dict[str, Any]) -> str:
    """Name each measure that differs with its change, and facts that differ."""
    facts = [f"`{each['fact']}`" for each in report["facts"]]
    measures = []
    for each in report["measures"]:
        if each["different"]:
            low, high = each["change"]
            form = "x{:.2f}" if each["against_a"] == "ratio" else "{:+.2f}"
            bound = "" if each["bound"] is None else f" above {each['bound']:g}"
            measures.append(f"`{each['measure']}`{bound} " + " to ".join(dict.fromkeys(map(form.format, (low, high)))))
    return ", ".join([*facts, *measures]) or "none"


def explained(report: dict[str, Any]) -> str:
    return ", ".join(f"`{each['measure']}`: {each['answer']}" for each in report["explained_by_shape_or_load"]) or "-"


async def one_server(command: str, folder: Path) -> tuple[str, ...]:
    """Record a server at its usual load twice, then with longer prompts, and with longer outputs."""
    load, paths = calm(), []
    with server(command):
        sending = asyncio.create_task(load.run())
        await asyncio.sleep(WARM)
        for number in range(2):
            path, _ = await asyncio.gather(recorded(folder, f"calm-{number}"), compared("itself, live", URL, ITSELF))
            paths.append(path)
        load.words = 240
        paths.append(await recorded(folder, "prompts"))
        load.words, load.tokens = 60, 80
        paths.append(await recorded(folder, "outputs"))
        sending.cancel()
        load.leave()
    return tuple(paths)


async def other(command: str, folder: Path, *flags: str) -> str:
    """Record a server with other flags at the usual load."""
    load = calm()
    with server(command, *flags):
        sending = asyncio.create_task(load.run())
        await asyncio.sleep(WARM)
        path = await recorded(folder, "".join(flags) or "same")
        sending.cancel()
        load.leave()
    return path


async def flags(command: str, _: Path, folder: Path) -> None:
    """Compare requests of other lengths, and servers with other flags."""
    first, second, prompts, outputs = await one_server(command, folder)
    await compared("the next minute", first, second)
    await compared("prompts with four times as many words of their own", first, prompts)
    await compared("outputs four times as long", first, outputs)
    for title, others in OTHERS.items():
        await compared(title, first, await other(command, folder, *others))


async def adapters(command: str, model: Path, folder: Path) -> None:
    """Compare requests of the base model with those of an adapter on the same server, and with half of each."""
    write_adapter(folder / "sql", model, 1)
    paths = {}
    with server(command, "--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules", f"sql={folder / 'sql'}"):
        for name, models in {"base": "m", "adapter": "sql", "adapter again": "sql", "half": "m sql"}.items():
            loads = [calm() for _ in models.split()]
            for load, load.model in zip(loads, models.split(), strict=True):
                load.rate /= len(loads)
            sending = [asyncio.create_task(load.run()) for load in loads]
            await asyncio.sleep(WARM)
            paths[name] = await recorded(folder, name.replace(" ", "-"))
            for task, load in zip(sending, loads, strict=True):
                task.cancel()
                load.leave()
    await compared("a LoRA adapter instead of its base model", paths["base"], paths["adapter"])
    await compared("the same adapter, the next minute", paths["adapter"], paths["adapter again"])
    await compared("half of the requests for the adapter", paths["base"], paths["half"])


PARTS = {"flags": flags, "adapters": adapters}


async def play(command: str, model: Path, parts: Sequence[str]) -> None:
    """Record everything, and print what the comparisons say."""
    print("| B, against the usual load | Result | Differences | Explained by shape or load |")
    print("| --- | --- | --- | --- |", flush=True)
    for name in parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            await PARTS[name](command, model, Path(folder))


def main() -> None:
    command, model = os.environ.get("VLLM_SIDECAR_SERVE"), os.environ.get("VLLM_SIDECAR_MODEL")
    if not command or not model:
        print("skipped: set VLLM_SIDECAR_SERVE and VLLM_SIDECAR_MODEL (see the head of this file)")
        return
    asyncio.run(play(command.format(model=model), Path(model), sys.argv[1:]))


if __name__ == "__main__":
    main()
