"""What is wrong in each scenario and field case, what `doctor` found there, and the table of both in docs/tools.md.

python tests/support/doctor_truth.py   # diagnoses all again, and writes doctor_truth.json and the table

The tests compare every diagnosis with the file, and the file with the document.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

TESTS = Path(__file__).parents[1]
sys.path[:0] = [each for each in (str(TESTS), str(TESTS / "support")) if each not in sys.path]

import recorded  # noqa: E402 - the helpers of the tests are beside this folder
from places import ROOT  # noqa: E402

from field.play import play  # noqa: E402
from field.test_cases import CASES  # noqa: E402
from vllm_sidecar.simulator.scenarios import SCENARIOS  # noqa: E402
from vllm_sidecar.tools.doctor.diagnosis import Diagnosis, Source, diagnose  # noqa: E402
from vllm_sidecar.tools.doctor.sources import recording  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FILE = TESTS / "tools" / "doctor_truth.json"
PAGE = ROOT / "docs" / "tools.md"
BEGIN, END = "<!-- begin: diagnosis against truth -->", "<!-- end: diagnosis against truth -->"
QUEUE = ("queueing:batch", "slow_first_token")


@dataclass(frozen=True)
class Truth:
    """What is wrong: its kind in words, the findings that are required, and those that follow from it."""

    words: str
    required: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()


def _truth(words: str, required: str = "", *also: str) -> Truth:
    return Truth(words, frozenset(required.split()), frozenset(also))


_WELL = "Healthy, idle, or its clients left"
_BATCH = "A full batch"
_HANG = "A hang, a livelock, a dead input thread"
_SILENT = "A hang that no signal corroborates"
_ADDRESS = "A router, or several replicas at one address"
SCENARIO_TRUTH: Mapping[str, Truth] = {
    "healthy": _truth(_WELL),
    "stale-gauges": _truth(_WELL),
    "queue-buildup": _truth(_BATCH, "queueing:batch", "slow_first_token"),
    "kv-exhaustion": _truth("A full KV cache", "kv_cache_full", "slow_first_token", "prefix_hits_dropped"),
    "slow-decode": _truth("Slow steps", "slow_decode", *QUEUE),
    "stall": _truth(_HANG, "stalled"),
    "crash-loop": _truth("A crash loop", "restarting", "down"),
    "prefix-drop": _truth("Prompts that no longer share a prefix", "prefix_hits_dropped"),
    "spec-collapse": _truth("Rejected drafts", "drafts_rejected", "slow_decode"),
    "error-burst": _truth("Server errors", "failing"),
    "dp-imbalance": _truth("Uneven data-parallel engines", "engines_uneven", *QUEUE),
    "lora-thrash": _truth("All LoRA slots are taken", "queueing:adapter", "slow_first_token"),
    "sleep": _truth("Asleep with requests", "asleep", "aborting"),
    "wrong-output": _truth("Answers that are garbage, without a canary", "canary_wrong"),
}
MISSED = ("wrong-output",)
"""Causes that are not found: only a canary reads answers."""

_OF_STATE = {
    "stalled": _truth(_HANG, "stalled", "failing"),
    "queueing": _truth(_BATCH, "queueing:batch", "slow_first_token", "slow_decode"),
    "gauges_stale": _truth(_SILENT, "gauges_stale"),
    "kv_cache_held": _truth("KV blocks that nobody frees", "kv_cache_held"),
    "not_an_engine": _truth(_ADDRESS, "not_an_engine"),
    "several_servers": _truth(_ADDRESS, "several_servers"),
}
_FILES_ONLY = "A mass abort of which only open files are exposed"
_COMPILES = "Compilations again and again, between which the server answers"
_OF_CASE = {
    "a mass abort, only open files": _truth(_FILES_ONLY, "gauges_stale"),
    "compilations again and again": _truth(_COMPILES, "", "down"),
}


def case_truth(name: str) -> Truth:
    """Return what is wrong in a field case; one that ends well may have had restarts before."""
    states = CASES[name].states
    if name in _OF_CASE:
        return _OF_CASE[name]
    if states & {"healthy", "idle"}:
        return _truth(_WELL, "", "restarting")
    (state,) = states
    return _OF_STATE[state]


def scenario(name: str, folder: Path) -> Diagnosis:
    """Diagnose a scenario after 200 s of it."""
    path = recorded.write(folder / f"{name}.gz", recorded.polls(f"healthy 60s -> {name} 200s", 259))
    (found,) = diagnose(*asyncio.run(recording(path, lambda _: None)))
    return found


def field_case(name: str) -> Diagnosis:
    """Diagnose a field case at its end."""
    (found,) = diagnose(asyncio.run(play(CASES[name])).status, Source(name, None))
    return found


def names_of(found: Diagnosis) -> list[str]:
    """Return the names of the findings, each once."""
    return sorted({each.name for each in found.findings})


def stored() -> dict[str, list[str]]:
    """Return what was found in each scenario and case when the file was written."""
    found: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def truths() -> dict[str, Truth]:
    """Return what is wrong in everything that is diagnosed."""
    return {f"scenario {name}": truth for name, truth in SCENARIO_TRUTH.items()} | {
        f"case {name}": case_truth(name) for name in CASES
    }


def counts(found: Mapping[str, Iterable[str]]) -> tuple[int, int, int, int]:
    """Return the numbers of findings, of right ones, of causes, and of those that were found."""
    totals = Counter[str]()
    for name, truth in truths().items():
        names = set(found[name])
        totals["found"] += len(names)
        totals["right"] += len(names & (truth.required | truth.also))
        totals["true"] += len(truth.required)
        totals["hit"] += len(truth.required & names)
    return totals["found"], totals["right"], totals["true"], totals["hit"]


def section(found: Mapping[str, Iterable[str]]) -> str:
    """Return the generated part of the document: precision, recall and the table."""
    total, right, true, hit = counts(found)
    numbers = (
        f"Of {total} findings {right} are right, counting those that follow from the cause (precision "
        f"{right / total:.0%}), and of {true} causes {hit} are found (recall {hit / true:.0%})."
    )
    lines = [
        numbers,
        "",
        "| Truth | Diagnoses | Found | Also found, because it follows |",
        "| --- | --- | --- | --- |",
        *_rows(found),
    ]
    return "\n".join(lines)


def _rows(found: Mapping[str, Iterable[str]]) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for name, truth in truths().items():
        kinds.setdefault(truth.words, []).append(name)
    for words, names in kinds.items():
        causes, also = Counter[str](), Counter[str]()
        for name in names:
            seen = set(found[name])
            causes.update(seen & truths()[name].required or {""})
            also.update(seen - truths()[name].required)
        yield f"| {words} | {len(names)} | {_listed(causes, len(names))} | {_listed(also, len(names))} |"


def _listed(names: Counter[str], diagnoses: int) -> str:
    """List names, each with how often it was found where that is not always."""
    return ", ".join(
        (f"`{name}`" if name else "nothing") + (f" ({count})" if count < diagnoses else "")
        for name, count in sorted(names.items(), key=lambda each: (-each[1], each[0]))
    )


def written(page: str, text: str) -> str:
    """Return the document with another generated part."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    """Diagnose everything again, and write the file and the document."""
    with tempfile.TemporaryDirectory() as folder:
        found = {f"scenario {name}": names_of(scenario(name, Path(folder))) for name in SCENARIOS}
    found |= {f"case {name}": names_of(field_case(name)) for name in CASES}
    FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), section(found)), encoding="utf-8")
    print(section(found))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
