"""Searches a configured regular expression in an answer, with a limit of time.

A search can take hours for an answer that the expression was not made for, and holds all of its process meanwhile. So
it runs in a process of its own, which is killed when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Final

LONGEST_SEARCHED: Final = 4000
"""Characters of an answer in which the expression is searched."""
SEARCH_TIMEOUT: Final = 2.0
"""Seconds for a search and the start of its process, which takes 20 ms."""

_FOUND, _NOT_FOUND = 0, 1
_PROGRAM: Final = (
    "import json, re, sys; pattern, text = json.load(sys.stdin.buffer); "
    f"sys.exit({_FOUND} if re.search(pattern, text) else {_NOT_FOUND})"
)


async def found(pattern: str, text: str, seconds: float = SEARCH_TIMEOUT) -> bool | None:
    """Return whether a regular expression matches a part of a text; None if that is not known after some seconds."""
    asked = json.dumps((pattern, text[:LONGEST_SEARCHED])).encode()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _PROGRAM,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, RuntimeError):  # no process, or no thread that waits for it
        return None
    try:
        async with asyncio.timeout(seconds):
            await process.communicate(asked)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode == _FOUND if process.returncode in (_FOUND, _NOT_FOUND) else None
