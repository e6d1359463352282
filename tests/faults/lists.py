"""Lists of servers that nobody should write, in files and web services that one program reads all at once."""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sidecar_process import started
from surroundings import get
from table import Group, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = 60.0


class List(NamedTuple):
    """The content of a list, and what becomes of it."""

    name: str
    content: bytes | str
    expected: str
    """A reason of failed sources, or a state of entries."""

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        return f"`{self.expected}` is counted; the other lists are watched"


def _entry(address: str, **labels: str) -> str:
    return json.dumps([{"targets": [address], "labels": labels}])


def lists() -> Iterator[List]:
    """Yield lists that nobody should write."""
    for what, content in {
        "nothing": "", "half of a list": '[{"targets": ["a:1"', "a mapping": '{"targets": []}', "a list of texts": '["a:1"]', "a key that nobody knows": '[{"target": ["a:1"]}]', "targets that are a text": '[{"targets": "a:1"}]',
        "a target that is a number": '[{"targets": [8000]}]', "labels that are a list": '[{"labels": ["a"]}]', "a label that is a number": '[{"labels": {"a": 1}}]', "100,000 levels": "[" * 100_000, "NaN": "[NaN]", "a page of HTML": "<html></html>",
        "random bytes": bytes(range(256)), "null in targets": '[{"targets": [null]}]', "a number": "7", "a text": '"a:1"', "two lists": "[][]",
    }.items():  # fmt: skip
        yield List(f"A list of servers: {what}", content, "invalid")
    yield List("A list of servers: UTF-16", json.dumps([{"targets": ["a:1"]}]).encode("utf-16"), "invalid")
    yield List("A list of servers: 40 MB", b" " * 40_000_000, "too_large")
    yield List(
        "A list of servers: 40 MB of entries", json.dumps([{"targets": ["10.0.0.1:8000"] * 2_400_000}]), "too_large"
    )
    yield List("A list of servers: 100,000 entries", json.dumps([{"targets": ["a:1"] * 100_000}]), "too_large")
    for what, address, labels in (
        ("a URL", "http://a:1", {}), ("nothing", "", {}), ("a port of 99999", "a:99999", {}), ("a line break", "a\nb:1", {}), ("NUL", "a\x00b:1", {}), ("a password", "user:secret@a:1", {}), ("a query", "a:1/x?y=z", {}),
        ("2,000 characters", "a" * 2000, {}), ("a scheme of files", "a:1", {"__scheme__": "file"}), ("a path without a slash", "a:1", {"__metrics_path__": "m"}), ("a label of NUL", "a:1", {"team": "a\x00b"}),
        ("a label name with a dash", "a:1", {"te-am": "a"}), ("a label of 2,000 characters", "a:1", {"team": "x" * 2000}), ("100 labels", "a:1", {f"l{n}": "x" for n in range(100)}),
    ):  # fmt: skip
        yield List(f"An address with {what}", _entry(address, **labels), "entry invalid")
    yield List("An address that another list has", _entry("127.0.0.1:1"), "entry duplicate")


def judged(title: str, cases: Sequence[List]) -> Group:
    """Read all lists at once; return their rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good.json").write_text(_entry("127.0.0.1:1"), encoding="utf-8")
        sources = [{"files": ["good.json"], "refresh": "1s"}]
        for number, case in enumerate(cases):
            content = case.content if isinstance(case.content, bytes) else case.content.encode()
            (folder / f"list-{number}.json").write_bytes(content)
            sources.append({"files": [f"list-{number}.json"], "refresh": "1s"})
        config = folder / "config.yaml"
        config.write_text(json.dumps({"discovery": {"file": sources}, "gpu": {"devices": "none"}}), encoding="utf-8")
        with started("--config.file", str(config)) as (running, base):
            end = time.monotonic() + SECONDS
            while (
                not all(_seen(case, number, get(base)) for number, case in enumerate(cases)) and time.monotonic() < end
            ):
                time.sleep(0.5)
            text, log = get(base), running.log
    good = re.search(r'discovery_targets\{discovery="file.0",state="watched"\} 1\.0', text) is not None
    rows = [_row(case, number, text, log, good=good) for number, case in enumerate(cases)]
    return Group(title, rows, f"The log had {len(log.splitlines())} lines.")


def _seen(case: List, number: int, text: str) -> bool:
    source = f'discovery="file.{number + 1}"'
    if case.expected.startswith("entry "):
        return f'discovery_targets{{{source},state="{case.expected.removeprefix("entry ")}"}} 1.0' in text
    found = re.search(rf'discovery_failures_total\{{{source},reason="{case.expected}"\}} (\S+)', text)
    return found is not None and float(found[1]) > 0.0


def _row(case: List, number: int, text: str, log: str, *, good: bool) -> Row:
    seen = _seen(case, number, text)
    wrong = ["not as promised"] * (not seen) + ["the good list is not watched"] * (not good)
    wrong += ["traceback"] * ("Traceback" in log) + ["secret shown"] * ("user:secret" in log + text)
    return Row(
        case.name,
        case.promise,
        (case.expected if seen else "nothing") + "".join(f" [{each}]" for each in wrong),
        not wrong,
    )
