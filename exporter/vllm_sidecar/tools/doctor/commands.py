"""The next command of a finding, with the addresses and the model of what was diagnosed, so that it runs as printed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

UNKNOWN_SERVER = "http://HOST:8000"
_PLAIN_NAME = re.compile(r"[\w./:@+-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """The addresses of what was diagnosed; without any, commands have a placeholder."""

    server: str = UNKNOWN_SERVER
    """The address of vLLM."""
    sidecar: str = ""
    """The address of the sidecar whose status was read; empty for none."""

    def filled(self, text: str, model: str) -> str:
        """Return a command, or a sentence with one, about this place and a name of its model (empty if unknown)."""
        server = shlex.quote(self.server)
        watch = f"--from {shlex.quote(self.sidecar)}" if self.sidecar else server
        name = model if _PLAIN_NAME.fullmatch(model) else "MODEL"
        return text.format(server=server, watch=watch, model=name)
