"""The profiles of metrics in the running program, and their sizes as `docs/metrics.md` has them."""

from __future__ import annotations

import re
from typing import NamedTuple

import captured
import pytest
from fake_vllm import FakeVllm
from growing import grown
from places import ROOT
from running import config, run

from vllm_sidecar.catalog import signal_of
from vllm_sidecar.catalog.metric_profiles import MetricProfile, exported

pytestmark = pytest.mark.io

POLLS = 12
"""Enough for each recent signal."""
NEAR = 0.15
"""Share by which a size may differ from the documents: other signals were added since."""


class Size(NamedTuple):
    """A row of the table."""

    first: int
    """Series with one engine."""
    further: int
    """Series of each further engine."""
    plain: int
    """Bytes of a scrape of one engine."""
    gzipped: int
    """The same, compressed."""


def engines(body: str, count: int) -> str:
    """Return a body of several engines, each with the series of the first."""
    lines = body.splitlines()
    more = [
        line.replace('engine="0"', f'engine="{number}"') if number else line
        for line in lines
        for number in range(count if 'engine="0"' in line else 1)
    ]
    return "\n".join(more) + "\n"


async def scrapes(count: int) -> dict[MetricProfile, tuple[bytes, bytes]]:
    """Return a scrape in each profile, plain and compressed."""
    body = engines(captured.text(captured.BASELINE), count)
    async with FakeVllm() as fake, run(config(fake.url)) as running:
        for poll in range(POLLS):
            fake.body = grown(body, poll + 1).encode()
            await running.poll()
        found = {}
        for profile in MetricProfile:
            running.exporter.set_sources([running.target_loop], 60.0, profile)
            found[profile] = tuple(running.exporter.render(openmetrics=False, compressed=gz) for gz in (False, True))
        return found


def series(scrape: bytes) -> list[str]:
    return [line.decode() for line in scrape.splitlines() if not line.startswith(b"#")]


def documented() -> dict[str, Size]:
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(
        r"^\| `(lean|default|full)` \|[^|]*\| (\d+) \| (\d+) \| (\d+) kB \| (\d+) kB \|$", text, re.MULTILINE
    )
    return {name: Size(int(a), int(b), int(c) * 1000, int(d) * 1000) for name, a, b, c, d in rows}


async def test_each_profile_has_its_signals_and_the_size_that_the_documents_have() -> None:
    one, two = await scrapes(1), await scrapes(2)
    measured = {
        profile.value: Size(
            len(series(plain)), len(series(two[profile][0])) - len(series(plain)), len(plain), len(gzipped)
        )
        for profile, (plain, gzipped) in one.items()
    }
    table = documented()
    assert list(table) == [profile.value for profile in MetricProfile]
    for name, sizes in measured.items():
        for what, found, expected in zip(Size._fields, sizes, table[name], strict=True):
            assert abs(found - expected) <= max(NEAR * found, 1000.0 * (found > 1000)), (name, what, measured)
    for profile, (plain, _) in one.items():
        wanted = exported(profile)
        for line in series(plain):
            if line.startswith("vllm_sidecar_"):
                name = re.split(r"[{ ]", line.removeprefix("vllm_sidecar_"), maxsplit=1)[0]
                signal = signal_of(name)
                assert signal is not None
                assert signal.name in wanted, (profile, name)
