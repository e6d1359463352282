"""Commands as a user types them, with files that nobody should have: exit code, time, and the lines on the terminal."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from places import EXPORTER
from table import Group, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

AT_ONCE = 3
OUTPUT, CODE = ".output", ".code"
"""Files in the folder of a command: what it prints, and its exit code."""
PATIENCE = 300.0
"""Seconds until a command that uses no CPU is taken for hung."""
CRASHED = 255
"""Exit code of a process that ended without one of its own."""
_PROGRAMS = multiprocessing.get_context("forkserver")
_PROGRAMS.set_forkserver_preload(
    ["vllm_sidecar.cli", "vllm_sidecar.config", "vllm_sidecar.generate.outputs", "vllm_sidecar.generate.rules"]
)
"""Starts copies of one process that has loaded the program: to load it takes longer than most commands."""
LONGEST_LINE = 4000
"""Characters of a line on the terminal: an error that repeats its whole input hides what is wrong."""


@dataclass(frozen=True)
class Command:
    """A command with its files; `{folder}` in an argument is where they are, as for `prepare`."""

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    codes: tuple[int, ...] = (1, 2)
    says: str = "."
    """A regular expression that standard output and error together match."""
    hidden: str = ""
    """A secret that they must not contain."""
    seconds: float = 20.0
    """Most CPU seconds: a busy machine makes no command break its promise."""
    prepare: Callable[[Path], object] | None = None
    judge: Callable[[Path], str] | None = None
    """Judges the folder after a success: the mistake, or nothing."""

    @property
    def promise(self) -> str:
        """Return the expectation in words."""
        text = (
            "works" if self.codes == (0,) else "refused in plain lines" if 0 not in self.codes else "works or refused"
        )
        text += ", and promtool accepts the files" if self.judge and 0 in self.codes else ""
        return text + (", the secret hidden" if self.hidden else "")


def environment(**more: str) -> dict[str, str]:
    """Return variables with which `python -m vllm_sidecar` is this tree's."""
    path = os.pathsep.join(filter(None, (str(EXPORTER), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | more


def judged(title: str, commands: Sequence[Command]) -> Group:
    """Run all commands, a few at a time; return their rows."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rows, seconds = zip(*pool.map(_row, commands), strict=True)
    return Group(title, list(rows), f"The slowest took {max(seconds):.1f} s.")


def _row(command: Command) -> tuple[Row, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in command.files.items():
            (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
        if command.prepare:
            command.prepare(folder)
        arguments = [each.replace("{folder}", name) for each in command.arguments]
        began = time.monotonic()
        code = _ended(command, arguments, folder)
        seconds = time.monotonic() - began
        if code is None:
            row = Row(command.name, command.promise, "does not end", held=False)
            return row, seconds
        text = _read(folder / OUTPUT).replace(name, "FOLDER")
        wrong = _wrong(command, code, text)
        if not wrong and code == 0 and command.judge:
            wrong = list(filter(None, [command.judge(folder)]))
    lines = text.strip().splitlines()
    observed = f"exit code {code}: {_short(lines[-1]) if lines else 'nothing'}"
    return Row(
        command.name, command.promise, observed + (f" [{', '.join(wrong)}]" if wrong else ""), not wrong
    ), seconds


def _ended(command: Command, arguments: list[str], folder: Path) -> int | None:
    """Run a command in a process of its own; return its exit code, None if it did not end in time."""
    process = _PROGRAMS.Process(target=_main, args=(arguments, str(folder), int(command.seconds)), daemon=True)
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    code = folder / CODE
    return int(code.read_text()) if code.exists() else CRASHED


def _main(arguments: list[str], folder: str, seconds: int) -> None:
    """Be the program: with its arguments, its folder, no input, and its output in a file."""
    from vllm_sidecar import __main__ as program

    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.chdir(folder)
    for stream, path, flags in ((0, os.devnull, os.O_RDONLY), (1, OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        os.dup2(os.open(path, flags), stream)
    os.dup2(1, 2)
    sys.argv = ["vllm-sidecar", *arguments]
    code = 1
    try:
        code = program.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        Path(CODE).write_text(str(code), encoding="ascii")
        os._exit(code)


def _wrong(command: Command, code: int, text: str) -> list[str]:
    wrong = ["exit code"] * (code not in command.codes)
    wrong += ["traceback"] * ("Traceback" in text)
    wrong += ["internal error"] * ("internal error" in text)
    wrong += ["not the expected text"] * (re.search(command.says, text, re.DOTALL) is None)
    wrong += ["secret shown"] * (bool(command.hidden) and command.hidden in text)
    wrong += ["a line of kilobytes"] * any(len(line) > LONGEST_LINE for line in text.splitlines())
    return wrong


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _short(line: str, most: int = 160) -> str:
    return line if len(line) <= most else f"{line[:most]}..."
