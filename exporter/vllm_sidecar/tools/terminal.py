"""Progress on a terminal: one line on standard error that replaces itself; nothing where nobody watches."""

from __future__ import annotations

import logging
import shutil
import sys
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_CLEAR = "\r\033[K"


def without_log() -> None:
    """Print no event of the loops of targets: a command reports what they found itself."""
    logger = logging.getLogger("vllm_sidecar")
    logger.addHandler(logging.NullHandler())


class Progress:
    """The line of a running command; removed at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on = self._stream.isatty()
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.show("")

    def show(self, text: str) -> None:
        """Replace the line; an empty text removes it."""
        if self._on and text != self._text:
            self._text = text
            self._stream.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
            self._stream.flush()
