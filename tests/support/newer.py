"""Newer releases of the programs that read what is generated: Prometheus 3, Alertmanager, VictoriaMetrics, vmalert.

They are taken from the packages of Debian's unstable release and unpacked into a folder below ~/.cache, which is used
again until somebody deletes it; nothing is installed and no service starts. A folder that `VLLM_SIDECAR_OTHER_VERSIONS`
names comes first. A program that cannot be had skips its test, with one line that says how to get it.

    python tests/support/newer.py

fetches them ahead of the tests, and prints what they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "VLLM_SIDECAR_OTHER_VERSIONS"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-sidecar" / "newer"
SUITE = "sid"
PACKAGES = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "prometheus-alertmanager": ("prometheus-alertmanager", "amtool"),
    "victoria-metrics": ("victoria-metrics", "vmalert"),
}
"""Package -> the programs that are taken out of it; the rest of half a gigabyte is left in it."""
PROGRAMS = tuple(program for programs in PACKAGES.values() for program in programs)
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PATIENCE = 150.0
"""Seconds for each command of apt."""
PAUSE = 600.0
"""Seconds for which an attempt that failed is not repeated: every worker of a parallel run would wait again."""


class MissingError(Exception):
    """The programs cannot be had here; the text says why."""


def hint(name: str, why: str) -> str:
    """Return the line for a test that is skipped."""
    return f"no newer {name} ({why}): unpack a release into a folder, and name that folder in {VARIABLE}"


def program(name: str) -> Path:
    """Return the path of a newer program; skip the test where it cannot be had."""
    for folder in named():
        if (folder / name).exists():
            return folder / name
    try:
        return unpacked() / name
    except MissingError as missing:
        pytest.skip(hint(name, str(missing)))


def named() -> list[Path]:
    """Return the folders with other versions that the environment names."""
    return [Path(each) for each in os.environ.get(VARIABLE, "").split(":") if each]


@functools.cache
def unpacked() -> Path:
    """Return the folder of the cache, with all programs in it.

    Raises:
        MissingError: They are not there and cannot be fetched.
    """
    with _alone():
        if not all((CACHE / name).exists() for name in (*PROGRAMS, "versions")):
            _check_pause()
            try:
                _fetch()
            except MissingError as missing:
                (CACHE / "failed").write_text(str(missing))
                raise
    return CACHE


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time look into the cache, or fill it."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock = (CACHE / "lock").open("w")
    except OSError as error:
        raise MissingError(f"the cache cannot be written: {error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_pause() -> None:
    failed = CACHE / "failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < PAUSE:
        raise MissingError(failed.read_text())


def _fetch() -> None:
    """Download the packages, and put their programs into the cache."""
    for needed in ("apt-get", "dpkg-deb", "tar"):
        if shutil.which(needed) is None:
            raise MissingError(f"{needed} is missing")
    if not KEYRING.exists():
        raise MissingError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        _download(folder)
        for package, programs in PACKAGES.items():
            (file,) = folder.glob(f"{package}_*.deb")
            _unpack(file, programs, folder)
        packages = sorted(folder.glob("*.deb"))
        versions = [_run("dpkg-deb", "--show", "--showformat=${Package} ${Version}", file) for file in packages]
        for each in PROGRAMS:
            _run(folder / each, "--version")  # one that cannot run here, as its C library is older, is none
        for each in PROGRAMS:
            (folder / each).replace(CACHE / each)
    (CACHE / "versions").write_text("".join(f"{each}\n" for each in versions))


def _download(folder: Path) -> None:
    """Download with lists of their own, so that nothing of this machine's apt changes."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    options = (
        f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}", "Acquire::Languages=none",
        "Acquire::http::Timeout=20", "Acquire::Retries=1", "APT::Sandbox::User=root",
    )  # fmt: skip
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    _run(*apt, "update", folder=folder)
    _run(*apt, "download", *(f"{package}/{SUITE}" for package in PACKAGES), folder=folder)


def _mirror() -> str:
    """Return the mirror that this machine's apt uses, or Debian's own."""
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))]
    text = "\n".join(file.read_text() for file in files if file.is_file())
    found = re.search(r"\b(?:https?|file):\S+/debian/?(?=\s|$)", text)
    return found[0] if found else MIRROR


def _unpack(package: Path, programs: tuple[str, ...], folder: Path) -> None:
    archive = package.with_suffix(".tar")
    with archive.open("wb") as stream:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=stream, check=True, timeout=PATIENCE)
    members = [f"./usr/bin/{each}" for each in programs]
    _run("tar", "--extract", "--strip-components=3", "--file", archive, *members, folder=folder)
    archive.unlink()


def _run(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command; return what it wrote.

    Raises:
        MissingError: It failed, or took too long.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"{Path(command[0]).name} takes more than {PATIENCE:g} s") from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise MissingError(f"{Path(command[0]).name}: {said.splitlines()[-1] if said else done.returncode}")
    return said


def main() -> int:
    """Fetch them, and print what they are."""
    try:
        folder = unpacked()
    except MissingError as missing:
        print(hint("programs", str(missing)), file=sys.stderr)  # noqa: T201
        return 1
    print(f"{folder}:\n{(folder / 'versions').read_text()}", end="")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
