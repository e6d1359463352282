"""Differential parser: a line that is the same as in the previous poll costs one comparison in C.

A vLLM server's body has hundreds of lines of which some dozens change from poll to poll, and of those only the number
at the end. The parser therefore stores the lines of the previous body; if the number of lines is the same, it converts
only the numbers of lines that differ. After any other change (another line, other labels, a changed comment) it reads
the whole body, where lines whose text before the value is known still skip the grammar.

A body is never trusted: what exceeds a limit is left out and counted, and the rest is read. Large bodies are read in
slices, so that the event loop runs other tasks in between.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import compress, islice
from operator import is_, ne
from typing import TYPE_CHECKING

from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.exposition.grammar import MAX_NUMBER, LimitError, parse_sample, parse_type
from vllm_sidecar.exposition.layout import Exposition, Layout, Rejected
from vllm_sidecar.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from vllm_sidecar.exposition.layout import Series

MAX_LINES = 200_000
"""Most lines that are read; 256 engines have half of that. Lines after them are left out."""
MAX_PER_NAME = 10_000
"""Most series of one sample name that are read, so that one family cannot displace all others."""
MAX_NAMES = 3_000
"""Most sample names, and most families, that are read; a server has some hundreds."""
MAX_LINE = 1 << 20
"""Bytes of the longest line that is read: enough for the names of ten thousand LoRA adapters, twice."""
MAX_REJECTED = 1_000
"""A body with at least so many bad lines, and more bad than good ones, is not an exposition."""
AT_ONCE = 10_000
"""Lines that are compared in one go."""
READ_AT_ONCE = 100
"""Lines that are read in one go; a long one is followed by a pause."""
LONG_LINE = 10_000
"""Bytes."""
NO_HEAD = b"\n"
"""Head of a line whose change requires reading the whole body; no line starts with it."""
LEFT_OUT = -1
"""Slot of a line without a value: a comment, or a sample that was left out."""
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
        """Parse one body without a pause.

        Raises:
            PollError: EMPTY, TRUNCATED, NOT_PROMETHEUS, or UNREADABLE (no line is valid); the parser stays usable.
        """
        return at_once(self.steps(body, content_type))

    def steps(self, body: bytes, content_type: str = "") -> Generator[None, None, Exposition]:
        """Parse one body in steps; the same as `parse` otherwise."""
        _refuse(body, content_type)
        lines, beyond = _split(body)
        yield
        if len(lines) == len(self._lines) and beyond == self._last.limits.get("lines", 0):
            updated = yield from self._update(lines)
            if updated:
                return self._last
        return (yield from self._read(lines, beyond))

    def _update(self, lines: list[bytes]) -> Generator[None, None, bool]:
        """Apply a body that differs in numbers only; return False if it differs in more."""
        slots: list[int] = []
        numbers: list[float] = []
        for start in range(0, len(lines), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            new = lines[part]
            differs = list(map(ne, self._lines[part], new))
            changed = list(compress(new, differs))
            # Whole lists go through C functions, because every poll of every target runs this code.
            texts = list(map(bytes.removeprefix, changed, compress(self._heads[part], differs)))
            if any(map(is_, changed, texts)):  # the start of a line changed
                return False
            if max(map(len, texts), default=0) > MAX_NUMBER:
                return False
            try:
                numbers += map(float, texts)
            except ValueError:
                return False
            if b"".join(texts).translate(None, IN_NUMBERS):
                return False
            slots += compress(self._slots[part], differs)
            yield
        values = list(self._last.values)
        for slot, number in zip(slots, numbers, strict=True):
            if slot != LEFT_OUT:
                values[slot] = number
        self._lines = lines
        last = self._last
        self._last = Exposition(last.layout, values, last.rejected, last.rejected_count, last.limits)
        return True

    def _read(self, lines: list[bytes], beyond: int) -> Generator[None, None, Exposition]:
        body = _Body(self._known)
        numbered = enumerate(lines, 1)
        while some := list(islice(numbered, READ_AT_ONCE)):
            for number, line in some:
                body.add(number, line)
                if len(line) > LONG_LINE:
                    yield
            yield
        result = body.finish(self._last.layout, beyond)
        self._lines, self._heads, self._slots, self._known = lines, body.heads, body.slots, body.known
        self._last = result
        return result


def _split(body: bytes) -> tuple[list[bytes], int]:
    """Return the lines that are read, and how many are left out after them."""
    lines = body.split(b"\n", MAX_LINES)
    if len(lines) <= MAX_LINES:
        return lines, 0
    rest = lines.pop()
    return lines, rest.count(b"\n") + (not rest.endswith(b"\n")) if rest else 0


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
        self._limits: Counter[str] = Counter()
        self._per_name: dict[bytes, int] = {}
        self._names: dict[str, str] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self.known: dict[bytes, Series] = {}
        self.heads: list[bytes] = []
        self.slots: list[int] = []

    def add(self, number: int, line: bytes) -> None:
        head, slot = NO_HEAD, LEFT_OUT
        try:
            if self._openmetrics and line.strip():
                raise ValueError("text after # EOF")  # noqa: TRY301 - rejected like any other bad line
            if len(line) > MAX_LINE:
                raise LimitError("line_length", f"the line is longer than {MAX_LINE} bytes")
            if line.startswith((b"#", b" ", b"\t")) and line.lstrip(b" \t").startswith(b"#"):
                self._comment(line)
            elif not line.strip():
                pass
            elif self._is_one_too_many(line):
                head = _head(line)
            else:
                head, series, value = self._sample(line)
                slot = len(self._values)
                if self._seen.setdefault(series, slot) != slot:
                    head, slot = NO_HEAD, LEFT_OUT
                    raise ValueError("the same series occurs twice")  # noqa: TRY301
                self._values.append(value)
        except ValueError as error:
            self._reject(number, line, error)
        self.heads.append(head)
        self.slots.append(slot)

    def _is_one_too_many(self, line: bytes) -> bool:
        """Return whether a sample is beyond the limits: of series of its name, or of names."""
        end = line.find(b"{")
        name = line[: end if end >= 0 else line.find(b" ")]
        count = self._per_name.get(name, 0)
        if count == MAX_PER_NAME:
            self._limits["series_per_name"] += 1
        elif not count and len(self._per_name) == MAX_NAMES:
            self._limits["names"] += 1
        else:
            self._per_name[name] = count + 1
            return False
        return True

    def _comment(self, line: bytes) -> None:
        if line.strip() == b"# EOF":
            self._openmetrics = True
        elif family := parse_type(line.decode()):
            if len(self._families) == MAX_NAMES and family[0] not in self._families:
                self._limits["names"] += 1
            else:
                self._families[family[0]] = family[1]

    def _sample(self, line: bytes) -> tuple[bytes, Series, float]:
        head = _head(line)
        number = line[len(head) :]
        series = self._before.get(head)
        if series is not None and len(number) <= MAX_NUMBER and not number.translate(None, IN_NUMBERS):
            try:
                value = float(number)
            except ValueError:
                pass
            else:
                self.known[head] = series
                return head, series, value
        sample = parse_sample(line.decode())
        series = self._shared(sample.series)
        if sample.head != len(head.decode()):  # a timestamp, an exemplar, or a tab before the value
            return NO_HEAD, series, sample.value
        self.known[head] = series
        return head, series, sample.value

    def _shared(self, series: Series) -> Series:
        """Return an equal series whose name and label pairs are the objects of other series of the body."""
        name, labels = series
        return self._names.setdefault(name, name), tuple([self._pairs.setdefault(pair, pair) for pair in labels])

    def _reject(self, number: int, line: bytes, error: ValueError) -> None:
        why = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        self._rejected_count += 1
        if isinstance(error, LimitError):
            self._limits[error.limit] += 1
        if len(self._rejected) < DESCRIBED:
            self._rejected.append(Rejected(number, why, line[:120].decode(errors="replace")))
        if self._rejected_count > max(MAX_REJECTED, len(self._values)):
            raise PollError(Reason.NOT_PROMETHEUS, f"{self._rejected_count} lines are not metrics, the first: {why}")

    def finish(self, before: Layout, beyond: int) -> Exposition:
        if not self._values and (self._rejected or not self._families):
            self._refuse_all()
        if beyond:
            self._limits["lines"] = beyond
        layout = Layout(tuple(self._seen), self._families, self._openmetrics)
        # Consumers compile a mapping for each layout: reuse the object if only comments or the order of lines changed.
        if (before.series, before.families, before.openmetrics) == (layout.series, layout.families, layout.openmetrics):
            layout = before
        return Exposition(layout, self._values, tuple(self._rejected), self._rejected_count, dict(self._limits))

    def _refuse_all(self) -> None:
        """Raise the error of a body of which no sample could be read."""
        if not self._rejected:
            raise PollError(Reason.EMPTY, "no sample in the body")
        reason = Reason.UNREADABLE if self._families else Reason.NOT_PROMETHEUS
        raise PollError(reason, f"no sample in the body, line {self._rejected[0].line}: {self._rejected[0].why}")


def _head(line: bytes) -> bytes:
    """Return the text of a sample line before its number."""
    text, blank, _ = line.rpartition(b" ")
    return text + blank


def _refuse(body: bytes, content_type: str) -> None:
    """Raise PollError for a body that can be rejected before it is split into lines."""
    start = body[:256].lstrip()
    if not start and not body.strip():
        raise PollError(Reason.EMPTY, "the body is empty")
    one_line = b"\n" not in body and not start.startswith(b"#")  # too little for a truncated exposition
    if start[:1] in (b"<", b"[") or _JSON.match(start) or one_line:
        raise PollError(Reason.NOT_PROMETHEUS, f"the body is not metrics: it starts with {_shown(start)}")
    if not body.endswith(b"\n") and not body.endswith(b"# EOF"):
        raise PollError(Reason.TRUNCATED, "the body ends in the middle of a line")
    if "openmetrics" in content_type and not body.rstrip().endswith(b"# EOF"):
        raise PollError(Reason.TRUNCATED, "the body is OpenMetrics and has no # EOF at its end")


def _shown(start: Sequence[int] | bytes) -> str:
    return repr(bytes(start[:40]).decode(errors="replace"))
