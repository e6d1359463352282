"""Secrets that servers repeat in every way: each is a target of one program, whose every output is searched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from loopback import raw_server
from sidecar_process import started
from table import Group, Row

from serve.test_planted_secrets import Planted, leaks, outputs, planted, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = 8.0


class Way(NamedTuple):
    """A way in which a secret could be shown."""

    name: str
    key: str
    promise: str = "in no metric, log line, page or answer of the API"


def ways() -> Iterator[Way]:
    """Yield the ways, without their servers."""
    with tempfile.TemporaryDirectory() as folder:
        for key in planted(Path(folder)):
            yield Way(f"A secret: {key}", key)


def judged(title: str, cases: Sequence[Way]) -> Group:
    """Plant all secrets at once; return where each was found."""
    with tempfile.TemporaryDirectory() as folder:
        found = planted(Path(folder))
        return asyncio.run(_judged(title, {case: found[case.key] for case in cases}, Path(folder)))


async def _judged(title: str, cases: dict[Way, Planted], folder: Path) -> Group:
    async with contextlib.AsyncExitStack() as stack:
        for case, one in cases.items():
            one.target |= {"name": case.key, "url": await stack.enter_async_context(raw_server(server(one)))}
        config = {
            "log": {"level": "debug"},
            "introspection": {"interval": "1s"},
            "scrape": {"interval": "500ms", "server_time_ratio": 1.0},
            "gpu": {"devices": "none"},
            "targets": [one.target for one in cases.values()],
        }
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        with started("--config.file", str(folder / "config.yaml")) as (running, base):
            await asyncio.sleep(SECONDS)
            shown = await outputs(base, [case.key for case in cases])
            shown["log"] = running.log
    rows = []
    for case, one in cases.items():
        leaked = [each.partition(" in ")[2].partition(":")[0] for each in leaks({case.key: one.secrets}, shown)]
        held = not leaked and bool(one.seen)
        observed = (
            f"shown in {', '.join(leaked)}" if leaked else "in none of them" if one.seen else "was never asked for"
        )
        rows.append(Row(case.name, case.promise, observed, held))
    size = sum(map(len, shown.values())) / 1e6
    return Group(title, rows, f"{len(shown)} outputs of {size:.1f} MB together were searched.")
