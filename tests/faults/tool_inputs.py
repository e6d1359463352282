"""What commands for operators are given by mistake: other files, cut recordings, addresses that answer nonsense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commands import Command
from places import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

_GOOD = (TESTS / "captures" / "0.32.0__baseline__after.prom").read_text(encoding="utf-8")
_CODES = (0, 1, 2, 3, 4, 5)
"""Exit codes of commands that judge: `doctor` and `compare` have 3 to 5 for findings, and for what is not known."""
_BODIES: dict[str, str | bytes] = {
    "nothing": "", "random bytes": bytes(range(256)) * 40, "a page of HTML": "<html>Sign in</html>", "UTF-16": _GOOD.encode("utf-16"), "a cut body": _GOOD[: len(_GOOD) // 2], "metrics of another program": "go_goroutines 1\n",
    "Windows line ends": _GOOD.replace("\n", "\r\n"), "JSON": '{"a": 1}', "NUL": bytes(10_000),
}  # fmt: skip


def tool_inputs() -> Iterator[Command]:
    """Yield bad inputs of every command that reads files or addresses."""
    for what, body in _BODIES.items():
        yield Command(f"doctor of a file with {what}", ("doctor", "{folder}/body.prom"), {"body.prom": body}, _CODES)
    for command in ("replay", "shape", "doctor", "compare"):
        for what, body in {
            "nothing": "",
            "random bytes": bytes(range(256)),
            "a body of /metrics": _GOOD,
            "a cut archive": b"\x1f\x8b\x08\x00abc",
        }.items():
            files = ("{folder}/in.rec",) * (2 if command == "compare" else 1)
            yield Command(f"{command} of a recording that is {what}", (command, *files), {"in.rec": body}, _CODES)
        files = ("{folder}/none",) * (2 if command == "compare" else 1)
        yield Command(f"{command} of a file that is missing", (command, *files), codes=(1, 2), says="none")
    for command in (
        ("top", "--once"),
        ("doctor",),
        ("explain-quantiles",),
        ("shape",),
        ("compare", "http://127.0.0.1:1"),
        ("record", "--for", "1s", "-o", "{folder}/out.rec"),
    ):
        for what, address in {
            "where nobody listens": "http://127.0.0.1:1",
            "of another kind": "ftp://127.0.0.1",
            "with a password": "http://u:Pl4nted-s3cret@127.0.0.1:1",
            "without a host": "http://",
        }.items():
            yield Command(
                f"{command[0]} of an address {what}",
                (command[0], address, *command[1:]),
                codes=_CODES,
                hidden="Pl4nted-s3cret",
            )
