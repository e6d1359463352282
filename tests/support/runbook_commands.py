"""What the commands of a runbook call: its blocks run in bash with a kubectl that only writes down its arguments."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_pages import EXAMPLE, blocks

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACES = (EXAMPLE["NAMESPACE"], "monitoring")
RECORDER = r"""
set -u
kubectl() {
  printf '%s\037' "$@" >> "$CALLS"; printf '\036' >> "$CALLS"
  case "$*" in
    *ownerReferences*) echo ReplicaSet/found-7d9f ;;
    *spec.replicas*) echo 3 ;;
    *spec.nodeName*) echo found-node ;;
    *" -o name"*) echo deployment.apps/CHAT-found ;;
  esac
}
"""
"""Answers where a later command needs one; the name of a workload may be written in other case than the model's."""

CLUSTER_SCOPED = {"node", "nodes"}
RESOURCES = CLUSTER_SCOPED | {
    *("pod", "pods", "service", "endpointslices", "hpa", "events", "configmaps", "networkpolicies", "statefulset"),
    *("deployments,statefulsets", "prometheusrules"),
}
WORKLOADS = ("deployment.apps/CHAT-found", "Deployment/found")
_GET = {"-n", "-A", "-o", "--raw", "--sort-by", "--field-selector", "--no-headers"}
_LOGS = {"-n", "-c", "-l", "--all-containers", "--prefix", "--previous", "--since", "--tail", "--timestamps"}
FLAGS: dict[str, set[str]] = {
    "get": _GET,
    "describe": {"-n"},
    "logs": _LOGS,
    "exec": {"-n", "-c"},
    "debug": {"-n", "-it", "--profile", "--image", "--target"},
    "top pod": {"-n", "--containers"},
    "label": {"-n", "--overwrite"},
    "delete": {"-n"},
    "create": {"--raw", "-f"},
    "scale": {"-n", "--replicas"},
    "set resources": {"-n", "-c", "--limits"},
    "rollout undo": {"-n"},
    "rollout restart": {"-n", "-l"},
    "rollout status": {"-n", "--timeout"},
    "rollout history": {"-n"},
    "cordon": set(),
    "uncordon": set(),
    "drain": {"--ignore-daemonsets", "--delete-emptydir-data"},
    "taint": {"--overwrite"},
    "port-forward": {"-n"},
}
"""Every verb of kubectl that a runbook may use, with the options that it may use."""
WITH_VALUE = {"-n", "-o", "-c", "-l", "-f", "--raw", "--field-selector"}
CHANGES = {
    "label",
    "delete",
    "create",
    "scale",
    "set resources",
    "cordon",
    "drain",
    "taint",
    "rollout undo",
    "rollout restart",
}
ON_NODES = {"cordon", "uncordon", "drain", "taint"}


@dataclass(frozen=True)
class Call:
    """One call of kubectl."""

    arguments: tuple[str, ...]

    @property
    def own(self) -> tuple[str, ...]:
        """Arguments of kubectl itself, without the command for a container."""
        return self.arguments[: self.arguments.index("--")] if "--" in self.arguments else self.arguments

    @property
    def verb(self) -> str:
        """The verb, of two words where kubectl has subcommands."""
        return " ".join(self.own[: 2 if self.own[0] in ("rollout", "set", "top") else 1])

    @property
    def options(self) -> tuple[str, ...]:
        """Options as kubectl would parse them, a placeholder for the values that follow one."""
        return tuple(
            f"{argument}=x" if argument in WITH_VALUE else argument
            for argument in self.own
            if argument.startswith("-") and argument != "-"
        )

    @property
    def flags(self) -> set[str]:
        """Options without their values."""
        return {argument.split("=")[0] for argument in self.own if argument.startswith("-") and argument != "-"}

    def value(self, flag: str) -> str | None:
        """Return what follows an option."""
        return self.own[self.own.index(flag) + 1] if flag in self.own else None

    @property
    def operands(self) -> list[str]:
        """What is neither verb, nor option, nor the value of one."""
        rest = self.own[len(self.verb.split()) :]
        return [
            argument
            for before, argument in zip((None, *rest), rest, strict=False)
            if not argument.startswith("-") and before not in WITH_VALUE
        ]


def calls(head: str, text: str, folder: Path) -> list[Call]:
    """Run the first block of a page, then the blocks of a text, and return the calls of the latter."""
    log = folder / "calls"
    log.write_text("")
    script = "\n".join([RECORDER, *blocks(head, "sh"), ': > "$CALLS"', *blocks(text, "sh")])
    chosen = {"POD": EXAMPLE["POD"], "LIMIT": "96Gi"}  # those that `:?` asks for
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"CALLS": str(log)} | chosen,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert not done.stderr, done.stderr
    return [Call(tuple(call.split("\037")[:-1])) for call in log.read_text().split("\036") if call]


@functools.cache
def refused(verb: str, options: tuple[str, ...]) -> str:
    """Return what the real kubectl objects to; without one on PATH nothing, and the table above is the judge."""
    program = shutil.which("kubectl")
    if program is None:
        return ""
    done = subprocess.run(
        [program, *verb.split(), *options, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr
