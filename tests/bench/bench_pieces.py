"""The longest pieces of a poll for which the event loop is held, with many engines and with new ones at each poll.

    python tests/bench/bench_pieces.py [ENGINES]     256 by default, the most that are read

Pieces are measured in CPU time of the thread, so that other work on the machine does not count. A slice of the event
loop ends with the first piece after 10 ms.
"""

from __future__ import annotations

import gc
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from bodies import recorded, with_engines  # noqa: E402 - the helpers of the tests are beside this folder

from vllm_sidecar.config import Config  # noqa: E402
from vllm_sidecar.exposition import DifferentialParser  # noqa: E402
from vllm_sidecar.serve.app import GARBAGE_THRESHOLD  # noqa: E402
from vllm_sidecar.serve.target_state import TargetState  # noqa: E402
from vllm_sidecar.vllm.normalize import Normalizer  # noqa: E402
from vllm_sidecar.vllm.scraper import Scrape  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

T = TypeVar("T")
POLLS = 5


class Pieces:
    """The pieces of one stage over all polls."""

    def __init__(self) -> None:
        self.count, self.longest, self.whole = 0, 0.0, 0.0

    def run(self, steps: Generator[None, None, T]) -> T:
        """Return the result of a computation, and measure its pieces."""
        while True:
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                self._note(time.thread_time() - began)
                return end.value  # type: ignore[no-any-return]
            self._note(time.thread_time() - began)

    def _note(self, seconds: float) -> None:
        self.count += 1
        self.longest, self.whole = max(self.longest, seconds), self.whole + seconds


def measure(title: str, bodies: Iterable[bytes]) -> None:
    config = Config.model_validate({"introspection": {"proc": False}, "gpu": {"devices": "none"}})
    state = TargetState(config.vllm, config, lambda: None, time.monotonic, time.time)
    state.use_derivation(config)
    parser, normalizer = DifferentialParser(), Normalizer()
    stages = {name: Pieces() for name in ("read the lines", "find the values", "windows and counts")}
    read, find, take = stages.values()
    for at, body in enumerate(bodies):
        exposition = read.run(parser.steps(body))
        readings = find.run(normalizer.steps(exposition, None, float(at)))
        response = SimpleNamespace(body=body, date=None, seconds=0.1)
        take.run(state.succeeded(float(at), Scrape(exposition, response), readings, 1.0))  # type: ignore[arg-type]
    for name, pieces in stages.items():
        print(f"{title}, {name}: {1e3 * pieces.whole / POLLS:.0f} ms a poll in {pieces.count / POLLS:.0f} pieces, "
              f"the longest {1e3 * pieces.longest:.1f} ms", flush=True)  # fmt: skip


def main() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    engines = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    bodies = [with_engines(body, engines) for body in islice(recorded(), POLLS)]
    measure(f"{engines} engines", bodies)
    renamed = (body.replace(b'model_name="tiny"', b'model_name="m%d"' % at) for at, body in enumerate(bodies))
    measure(f"{engines} new engines at each poll", renamed)


if __name__ == "__main__":
    main()
