"""Several servers of one program, of which one has a fault: the others stay right, and are polled in time."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import many_series
from changes import always, changed, in_turns
from http_answers import writes
from sidecar_process import started
from table import Group, Row
from upstream import BODY, Upstream, http
from watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upstream import Answer
    from watched import Seen

GOOD = ("b", "control")
INTERVAL, TIMEOUT = 0.5, 1.5
SECONDS = 3.0
FEWEST = 0.5
"""Least share of the polls that a healthy server must get on a busy machine; a server that waits for another gets none."""
CLOSED = "http://127.0.0.1:1"


class Neighbor(NamedTuple):
    """The fault of one server, next to two healthy ones."""

    name: str
    answer: Callable[[], Answer] | None = None
    """What it answers; None for a fault of its entry in the configuration."""
    entries: tuple[dict[str, str], ...] = ({"name": "a"},)
    """Its entries; without a `url` they are the server `a`."""
    path: str = "/metrics"
    starts: bool = True
    """The program starts with these entries."""

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        if not self.starts:
            return "refused at the start, with the line"
        return "the others are up, polled in time, and keep their values"


def _flood(name: str) -> Callable[[], Answer]:
    return next(fault.answer for fault in many_series.floods() if fault.name == name)


def _named(name: str) -> Callable[[], Answer]:
    return changed(lambda text: text.replace('model_name="tiny"', f'model_name="{name}"'))


def neighbors() -> Iterator[Neighbor]:
    """Yield the faults of one server of several."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99999\r\n\r\n"
    for what, answer in {
        "hangs before it answers": always(writes(hang=True)), "hangs in its headers": always(writes(b"HTTP/1.1 200 OK\r\n", hang=True)),
        "hangs in its body": always(writes(head + b"# HELP a b\n", hang=True)), "sends a byte each 20 ms": always(writes(*(bytes([each]) for each in head), pause=0.02)),
        "closes each connection": always(writes()), "answers after 1 s": lambda: writes(b"", http(BODY.text()), pause=1.0),
        "answers 500": always(http("", "500 Internal Server Error")), "answers 401": always(http("", "401 Unauthorized")), "redirects to another server": always(http("", "302 Found", "Location: /b/metrics\r\n")),
        "sends a page of HTML": always(http("<html></html>")), "sends nothing": always(http("")), "sends random bytes": always(http(bytes(range(256)) * 4000)), "sends gzip": always(http(b"\x1f\x8b" * 9, headers="Content-Encoding: gzip\r\n")),
        "sends 20 MB": always(http(b"# a\n" * 5_000_000)), "sends one line of 12 MB": always(http('a{b="' + "c" * 12_000_000 + '"} 1\n')),
        "sends endless chunks": always(writes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"4\r\n# a\n\r\n"] * 2000, pause=0.01)),
        "floods: 20,000 routes": _flood("20,000 routes"), "floods: 1,000 engines": _flood("1,000 engines"), "floods: 1,000 new models at each poll": _flood("1,000 models, new ones at each poll"),
        "floods: 10,000 unknown families": _flood("10,000 unknown families"), "floods: 4,000 names": _flood("4,000 names"),
        "restarts at each poll": in_turns(*(lambda text, n=n: re.sub(r"(process_start_time_seconds) \S+", rf"\1 {1.79e9 + n}", text) for n in range(5))),
        "is two servers in turns": in_turns(lambda text: text, lambda text: re.sub(r" (\d+)\.0$", " 7.0", text, flags=re.MULTILINE)),
        "has values of 1.7e308": changed(lambda text: re.sub(r"(vllm:\w+_total\{[^}]*\}) \S+", r"\1 1.7e308", text)),
        "has NaN everywhere": changed(lambda text: re.sub(r"(?m)^([^#]\S*) \S+$", r"\1 NaN", text)), "has another model": _named("other"), "has a new model at each poll": _new_models(),
        "claims the label target of another": changed(lambda text: text.replace('{engine="0"', '{target="b",engine="0"')),
    }.items():  # fmt: skip
        yield Neighbor(f"One of three servers {what}", answer)
    for path in ("/version", "/v1/models", "/load", "/health"):
        yield Neighbor(f"One of three servers hangs at {path}", always(writes(hang=True)), path=path)
    yield Neighbor("One of three servers is not there", entries=({"name": "a", "url": CLOSED},))
    yield Neighbor("One of three servers has a name that does not exist",
                   entries=({"name": "a", "url": "http://nonexistent.invalid:8000"},))  # fmt: skip
    yield Neighbor("One of three servers is at an address without a route",
                   entries=({"name": "a", "url": "http://192.0.2.1:8000"},))  # fmt: skip
    yield Neighbor("One of three servers speaks no TLS", entries=({"name": "a", "url": "https://127.0.0.1:1"},))
    yield Neighbor("An address is listed twice", entries=({"name": "a"}, {"name": "a2"}))
    yield Neighbor("The address of a healthy server is listed again", entries=({"name": "a", "url": "{url}/b"},))
    yield Neighbor("A name is listed twice", entries=({"name": "a"}, {"name": "a"}), starts=False)
    yield Neighbor("The name of a healthy server is listed again", entries=({"name": "b"},), starts=False)


def _new_models() -> Callable[[], Answer]:
    numbers = itertools.count()
    return changed(lambda text: text.replace('model_name="tiny"', f'model_name="m{next(numbers)}"'))


def judged(title: str, cases: Sequence[Neighbor]) -> Group:
    """Inject each fault next to two healthy servers; return the rows."""
    return asyncio.run(_run(title, cases))


async def _run(title: str, cases: Sequence[Neighbor]) -> Group:
    rows, longest = [], 0.0
    alike = [case for case in cases if case.answer is not None]
    async with Upstream() as upstream:
        if alike:
            with tempfile.TemporaryDirectory() as folder, started(*_flags(folder, upstream, alike[0])) as (one, base):
                watched = Watched(upstream, one, base)
                await _until_up(watched, ("a", *GOOD))
                for case in alike:
                    row, slip = await _injected(watched, case)
                    rows, longest = [*rows, row], max(longest, slip)
        for case in cases:
            if case.answer is None:
                rows.append(await _configured(upstream, case))
    order = {case.name: place for place, case in enumerate(cases)}
    rows.sort(key=lambda row: order[row.fault])
    return Group(title, rows, f"Polls of a healthy server next to them slipped by {longest:.2f} s at most.")


def _flags(folder: str, upstream: Upstream, case: Neighbor) -> tuple[str, str]:
    given = [{"url": f"{upstream.url}/a", **entry} for entry in case.entries]
    mine = [entry | {"url": entry["url"].replace("{url}", upstream.url)} for entry in given]
    document = {
        "targets": [*({"name": name, "url": f"{upstream.url}/{name}"} for name in GOOD), *mine],
        "scrape": {"interval": f"{1e3 * INTERVAL:.0f}ms", "timeout": f"{1e3 * TIMEOUT:.0f}ms", "connect_timeout": "1s",
                   "server_time_ratio": 1.0, "max_interval": "1s"},
        "introspection": {"interval": "1s", "timeout": "1s", "proc": False}, "gpu": {"devices": "none"},
    }  # fmt: skip
    path = Path(folder) / "config.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return "--config.file", str(path)


async def _until_up(watched: Watched, names: Sequence[str]) -> dict[str, Seen]:
    for _ in range(60):
        seen = await watched.seen()
        if all(name in seen and seen[name].up == 1.0 for name in names):
            return seen
        await asyncio.sleep(0.5)
    return seen


async def _injected(watched: Watched, case: Neighbor) -> tuple[Row, float]:
    before = await _until_up(watched, ("a", *GOOD))
    row, slip = await _watched(watched, case, before)
    watched.upstream.faults.clear()
    again = await _until_up(watched, ("a", *GOOD))
    back = again["a"].up == 1.0
    return row if back else row._replace(observed=f"{row.observed} [stays down]", held=False), slip


async def _watched(watched: Watched, case: Neighbor, before: dict[str, Seen]) -> tuple[Row, float]:
    first = len(watched.upstream.polled)
    if case.answer is not None:
        watched.upstream.faults["a", case.path] = case.answer
    await asyncio.sleep(SECONDS)
    during = await watched.seen()
    polled = watched.upstream.polled[first:]
    slip = max((b - a for a, b in itertools.pairwise(polled)), default=SECONDS) - INTERVAL
    if not set(GOOD) <= during.keys() & before.keys():
        return Row(case.name, case.promise, f"only {', '.join(during)} are watched", held=False), slip
    wrong = [f"{name} is down" for name in GOOD if during[name].up != 1.0]
    wrong += [f"{name}: {dict(new)}" for name in GOOD if (new := during[name].counts - before[name].counts)]
    wrong += ["not finite"] * (not all(during[name].finite for name in GOOD))
    wrong += [f"{len(polled)} polls"] * (len(polled) < FEWEST * SECONDS / INTERVAL)
    wrong += ["traceback"] * ("Traceback" in watched.log)
    observed = f"the others are up, {len(polled)} polls in {SECONDS:g} s" + "".join(f" [{each}]" for each in wrong)
    return Row(case.name, case.promise, observed, not wrong), slip


async def _configured(upstream: Upstream, case: Neighbor) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        flags = _flags(folder, upstream, case)
        try:
            with started(*flags) as (one, base):
                watched = Watched(upstream, one, base)
                before = await _until_up(watched, GOOD)
                row, _ = await _watched(watched, case, before)
                return row if case.starts else row._replace(observed="it starts", held=False)
        except AssertionError as error:  # it does not listen
            last = str(error).strip().splitlines()[-1].replace(folder, "FOLDER")
            return Row(case.name, case.promise, last[:200], held=not case.starts and "line 1: targets." in last)
