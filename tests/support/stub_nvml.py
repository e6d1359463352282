"""The stand-in for the driver's library: built with cc, scripted by a file (see nvml_stub/stub.c)."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from places import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = TESTS / "nvml_stub" / "stub.c"
NAME = "libnvidia-ml.so.1"

LOST, NOT_SUPPORTED, NO_PERMISSION, NOT_LOADED, OLD, MISMATCH, RESET, UNKNOWN = 15, 3, 4, 9, 13, 18, 16, 999
"""Codes of NVML that the tests script."""


def build(folder: Path, *definitions: str) -> Path:
    """Compile the library into a folder; skip the test where there is no C compiler (fail, in CI)."""
    compiler = shutil.which("cc")
    if compiler is None:
        tell = pytest.fail if os.environ.get("CI") else pytest.skip
        tell("cc is missing: apt-get install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / NAME
    flags = ["-std=gnu11", "-shared", "-fPIC", "-O1", "-pthread", f"-Wl,-soname,{NAME}"]
    flags += [f"-D{each}" for each in definitions]
    subprocess.run([str(compiler), *flags, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return library


@dataclass
class Stub:
    """A library and its script."""

    built: Path
    file: Path
    lines: tuple[str, ...] = ()
    at_end: ExitStack = field(default_factory=ExitStack)

    def script(self, *lines: str) -> None:
        """Replace the script; the library reads it again at its next call."""
        self.lines = lines
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self.file)

    def add(self, *lines: str) -> None:
        """Add lines to the script."""
        self.script(*self.lines, *lines)

    @property
    def log(self) -> list[str]:
        """Initialisations and shutdowns so far: init, shutdown."""
        return Path(f"{self.file}.log").read_text().split()

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs to load it in place of a driver's."""
        return {"LD_LIBRARY_PATH": str(self.built.parent), "NVML_STUB_SCRIPT": str(self.file)}


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, built once for all tests."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(stub_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The library with a script of its own: found by children, and loaded in this process, which finds it by name."""
    made = Stub(stub_library, tmp_path / "script")
    made.script()
    ctypes.CDLL(str(stub_library))
    for name, value in made.variables.items():
        monkeypatch.setenv(name, value)
    yield made
    made.script()
    made.at_end.close()
