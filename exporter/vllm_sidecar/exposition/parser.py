"""Differential parser: a line that is the same as in the previous poll costs one comparison in C.

A vLLM server's body has hundreds of lines of which some dozens change from poll to poll, and of those only the number
at the end. The parser therefore stores the lines of the previous body; if the number of lines is the same, it converts
only the numbers of lines that differ. After any other change (another line, other labels, a changed comment) it reads
the whole body, where lines whose text before the value is known still skip the grammar.
"""

from __future__ import annotations

import re
from itertools import compress
from operator import is_, ne
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.exposition.grammar import parse_sample, parse_type
from vllm_sidecar.exposition.layout import Exposition, Layout, Rejected, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LINES = 1_000_000
"""A longer body is not the metrics of a server; splitting it would use memory and time that other targets need."""
MAX_LINE = 1 << 20
"""Bytes of the longest line that is read: enough for the names of ten thousand LoRA adapters, twice."""
MAX_REJECTED = 1_000
"""A body with at least so many bad lines, and more bad than good ones, is not an exposition."""
NO_HEAD = b"\n"
"""Head of a line whose change requires reading the whole body; no line starts with it."""
DESCRIBED = 10
"""Most rejected lines that a result describes."""
IN_NUMBERS = b"0123456789+-.eEiInNfFaAtTyY \t"
"""The characters of numbers and the blanks around them; float() also accepts 1_000 and other white space."""
_JSON = re.compile(rb'\{\s*(?:\}|"(?:[^"\\]|\\.)*"\s*:)')
"""Start of a JSON object; a sample with its quoted name in the braces has no colon after it."""


class DifferentialParser:
    """Parses the successive bodies of one server; the result of `parse` stays valid after the next call."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._heads: list[bytes] = []
        self._slots: list[int] = []
        self._known: dict[bytes, Series] = {}
        self._last = Exposition(Layout((), {}, openmetrics=False), [])

    def parse(self, body: bytes, content_type: str = "") -> Exposition:
        """Parse one body.

        Raises:
            PollError: EMPTY, TRUNCATED, TOO_LARGE (too many lines) or NOT_PROMETHEUS; the parser stays usable.
        """
        _refuse(body, content_type)
        lines = body.split(b"\n")
        if len(lines) == len(self._lines) and self._update(lines):
            return self._last
        return self._read(lines)

    def _update(self, lines: list[bytes]) -> bool:
        """Apply a body that differs in numbers only; return False if it differs in more."""
        differs = list(map(ne, self._lines, lines))
        changed = list(compress(lines, differs))
        # Whole lists go through C functions, because every poll of every target runs this code.
        texts = list(map(bytes.removeprefix, changed, compress(self._heads, differs)))
        if any(map(is_, changed, texts)):  # the start of a line changed
            return False
        try:
            numbers = list(map(float, texts))
        except ValueError:
            return False
        if b"".join(texts).translate(None, IN_NUMBERS):
            return False
        values = list(self._last.values)
        for slot, number in zip(compress(self._slots, differs), numbers, strict=True):
            values[slot] = number
        self._lines = lines
        last = self._last
        self._last = Exposition(last.layout, values, last.rejected, last.rejected_count)
        return True

    def _read(self, lines: list[bytes]) -> Exposition:
        body = _Body(self._known)
        for number, line in enumerate(lines, 1):
            body.add(number, line)
        result = body.finish(self._last.layout)
        self._lines, self._heads, self._slots, self._known = lines, body.heads, body.slots, body.known
        self._last = result
        return result


class _Body:
    """One whole body while it is read."""

    def __init__(self, known: dict[bytes, Series]) -> None:
        self._before = known
        self._seen: dict[Series, int] = {}
        self._families: dict[str, str] = {}
        self._values: list[float] = []
        self._rejected: list[Rejected] = []
        self._rejected_count = 0
        self._openmetrics = False
        self.known: dict[bytes, Series] = {}
        self.heads: list[bytes] = []
        self.slots: list[int] = []

    def add(self, number: int, line: bytes) -> None:
        head, slot = NO_HEAD, -1
        try:
            if self._openmetrics and line.strip():
                raise ValueError("text after # EOF")  # noqa: TRY301 - rejected like any other bad line
            if len(line) > MAX_LINE:
                raise ValueError(f"the line is longer than {MAX_LINE} bytes")  # noqa: TRY301
            if line.startswith((b"#", b" ", b"\t")) and line.lstrip(b" \t").startswith(b"#"):
                self._comment(line)
            elif line.strip():
                head, series, value = self._sample(line)
                slot = len(self._values)
                if self._seen.setdefault(series, slot) != slot:
                    head, slot = NO_HEAD, -1
                    raise ValueError("the same series occurs twice")  # noqa: TRY301
                self._values.append(value)
        except ValueError as error:
            self._reject(number, line, error)
        self.heads.append(head)
        self.slots.append(slot)

    def _comment(self, line: bytes) -> None:
        if line.strip() == b"# EOF":
            self._openmetrics = True
        elif family := parse_type(line.decode()):
            self._families[family[0]] = family[1]

    def _sample(self, line: bytes) -> tuple[bytes, Series, float]:
        text, blank, number = line.rpartition(b" ")
        head = text + blank
        series = self._before.get(head)
        if series is not None and not number.translate(None, IN_NUMBERS):
            try:
                value = float(number)
            except ValueError:
                pass
            else:
                self.known[head] = series
                return head, series, value
        sample = parse_sample(line.decode())
        if sample.head != len(head.decode()):  # a timestamp, an exemplar, or a tab before the value
            return NO_HEAD, sample.series, sample.value
        self.known[head] = sample.series
        return head, sample.series, sample.value

    def _reject(self, number: int, line: bytes, error: ValueError) -> None:
        why = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        self._rejected_count += 1
        if len(self._rejected) < DESCRIBED:
            self._rejected.append(Rejected(number, why, line[:120].decode(errors="replace")))
        if self._rejected_count > max(MAX_REJECTED, len(self._values)):
            raise PollError(Reason.NOT_PROMETHEUS, f"{self._rejected_count} lines are not metrics, the first: {why}")

    def finish(self, before: Layout) -> Exposition:
        if not self._values and not self._families:
            first = f", line {self._rejected[0].line}: {self._rejected[0].why}" if self._rejected else ""
            raise PollError(Reason.NOT_PROMETHEUS if first else Reason.EMPTY, f"no sample in the body{first}")
        layout = Layout(tuple(self._seen), self._families, self._openmetrics)
        # Consumers compile a mapping for each layout: reuse the object if only comments or the order of lines changed.
        if (before.series, before.families, before.openmetrics) == (layout.series, layout.families, layout.openmetrics):
            layout = before
        return Exposition(layout, self._values, tuple(self._rejected), self._rejected_count)


def _refuse(body: bytes, content_type: str) -> None:
    """Raise PollError for a body that can be rejected before it is split into lines."""
    start = body[:256].lstrip()
    if not start and not body.strip():
        raise PollError(Reason.EMPTY, "the body is empty")
    one_line = b"\n" not in body and not start.startswith(b"#")  # too little for a truncated exposition
    if start[:1] in (b"<", b"[") or _JSON.match(start) or one_line:
        raise PollError(Reason.NOT_PROMETHEUS, f"the body is not metrics: it starts with {_shown(start)}")
    if len(body) > MAX_LINES and body.count(b"\n") > MAX_LINES:
        raise PollError(Reason.TOO_LARGE, f"the body has more than {MAX_LINES} lines")
    if not body.endswith(b"\n") and not body.endswith(b"# EOF"):
        raise PollError(Reason.TRUNCATED, "the body ends in the middle of a line")
    if "openmetrics" in content_type and not body.rstrip().endswith(b"# EOF"):
        raise PollError(Reason.TRUNCATED, "the body is OpenMetrics and has no # EOF at its end")


def _shown(start: Sequence[int] | bytes) -> str:
    return repr(bytes(start[:40]).decode(errors="replace"))
