"""Servers from files in the format of Prometheus' file_sd_configs, read again when they change."""

from __future__ import annotations

import asyncio
import errno
import glob
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.catalog.discovery import SourceReason
from vllm_sidecar.config.regular_files import read_regular
from vllm_sidecar.discovery.entries import MOST_BYTES, Entry, read_groups, read_json, read_yaml
from vllm_sidecar.discovery.errors import SourceError
from vllm_sidecar.discovery.source import Source
from vllm_sidecar.vllm.threads import in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_sidecar.config import FileList

MOST_FILES = 1000
READ_SECONDS = 30.0
"""How long reading may take, on a file system that hangs."""


class FileState(NamedTuple):
    """The last content of a file."""

    version: tuple[int, int, int]
    """Inode, time of the last change and size."""
    entries: Sequence[Entry]
    error: SourceError | None
    """Why `entries` are those of an earlier content; None if they are not."""


class FileSource(Source):
    """The servers of all files that match."""

    def __init__(self, place: str, settings: FileList, changed: Callable[[], None]) -> None:
        super().__init__(place, settings.target, settings.refresh, changed)
        self._patterns = [str(path) for path in settings.files]
        self._files: Mapping[str, FileState] = {}
        self._reading: asyncio.Task[tuple[dict[str, FileState], SourceError | None]] | None = None

    async def refresh(self) -> float:
        """Read the files that changed; those that cannot be read keep their entries."""
        # One read at a time: a file system that hangs must not collect threads.
        if self._reading is None or self._reading.done():
            known = self._files
            read = in_daemon_thread("discovery files", lambda: read_files(self._patterns, known))
            self._reading = asyncio.create_task(read)
        done, _ = await asyncio.wait((self._reading,), timeout=READ_SECONDS)
        if not done:
            raise SourceError(SourceReason.UNREADABLE, f"not read within {READ_SECONDS:g} s")
        self._files, error = self._reading.result()
        entries = [entry for path in sorted(self._files) for entry in self._files[path].entries]
        self.use(entries, error)
        return self._refresh


def read_files(
    patterns: Sequence[str], known: Mapping[str, FileState]
) -> tuple[dict[str, FileState], SourceError | None]:
    """Read all files that match.

    Args:
        patterns: Paths, with * and ?.
        known: What was read before, by path.

    Returns:
        The state of every file by path, and the first error.
    """
    errors = []
    found: dict[str, FileState] = {}
    for pattern in patterns:
        is_pattern = glob.has_magic(pattern)
        paths = sorted(glob.glob(pattern)) if is_pattern else [pattern]  # noqa: PTH207 - the pattern is a whole path
        for path in paths:
            state = _read(path, known.get(path))
            if state is not None:
                found[path] = state
            if state is None or state.error is not None:
                errors.append(state.error if state else SourceError(SourceReason.UNREADABLE, f"{path}: no such file"))
    if len(found) > MOST_FILES:
        return dict(known), SourceError(SourceReason.TOO_LARGE, f"more than {MOST_FILES} files")
    return found, errors[0] if errors else None


def _read(path: str, known: FileState | None) -> FileState | None:
    """Return the state of a file; None if it does not exist and was never read."""
    entries = known.entries if known else ()
    version = (0, 0, 0)
    try:
        stat = Path(path).stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if known is not None and known.version == version:
            return known
        data = read_regular(Path(path), MOST_BYTES)
        content = read_json(data) if path.endswith(".json") else read_yaml(data)
        return FileState(version, read_groups(content, {"__meta_filepath": path}), None)
    except OSError as error:
        if known is None and isinstance(error, FileNotFoundError):
            return None
        reason = SourceReason.TOO_LARGE if error.errno == errno.EFBIG else SourceReason.UNREADABLE
        return FileState(version, entries, SourceError(reason, f"{path}: {error.strerror}"))
    except SourceError as error:
        return FileState(version, entries, SourceError(error.reason, f"{path}: {error.detail}"))
