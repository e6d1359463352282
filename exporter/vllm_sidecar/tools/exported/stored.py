"""Series of sidecars in Prometheus -> samples by server and time.

The API is also that of VictoriaMetrics, Thanos and Mimir.
The raw samples of a window are read, not rates: each scrape is a poll.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vllm_sidecar.catalog import SIGNALS
from vllm_sidecar.catalog.reasons import PollError, Reason
from vllm_sidecar.catalog.types import PREFIX, Kind
from vllm_sidecar.config import format_duration
from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.exported.series import PARTS, own_labels
from vllm_sidecar.tools.prometheus_api import OtherProgramError, raw_samples
from vllm_sidecar.vllm.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from vllm_sidecar.config import Config
    from vllm_sidecar.tools.exported.series import Sample
    from vllm_sidecar.tools.prometheus_api import Series

Server = tuple[tuple[str, str], ...]
"""The labels of a server: those that the sidecar did not write."""
Polls = dict[float, list["Sample"]]
"""Samples by the Unix time of the scrape."""
LARGEST = "256MiB"
"""Size of the largest answer of Prometheus that is read."""
_HINTS = {
    Reason.HTTP_404: "Is it the address of Prometheus, with the path before /api/v1?",
    Reason.HTTP_4XX: "Check {flag}: matchers are written as in PromQL, such as 'pod=\"vllm-0\"'.",
    Reason.TIMEOUT: "Take a longer --timeout, a shorter window, or fewer sidecars with {flag}.",
    Reason.TOO_LARGE: "Take a shorter window, or fewer sidecars with {flag}.",
}
"""Hints that differ from those for servers."""


async def stored(
    config: Config,
    signals: Collection[str],
    matchers: str,
    end: float,
    seconds: float,
    flag: str,
    show: Callable[[str], None],
) -> dict[Server, Polls]:
    """Return the samples of a window, by server.

    Args:
        config: With the address of Prometheus as its server.
        signals: Names of the signals that are read.
        matchers: Further label matchers, such as `pod="vllm-0"`; empty for all sidecars.
        end: Unix time.
        seconds: Length of the window.
        flag: With which the matchers were given.
        show: Takes the text of the progress.

    Raises:
        UserError: Prometheus cannot be reached or refuses, or something else answers.
    """
    found: dict[Server, Polls] = defaultdict(lambda: defaultdict(list))
    own = own_labels(signals)
    queries = list(_selectors(signals, matchers))
    async with Client(config.vllm, config.scrape) as client:
        for number, selector in enumerate(queries):
            show(f"reading {format_duration(round(seconds) or 1)} of Prometheus: {number / len(queries):.0%}")
            for labels, samples in await _series(client, selector, end, seconds, flag):
                name = labels.get("__name__", "").removeprefix(PREFIX)
                polls = found[tuple(sorted(item for item in labels.items() if item[0] not in own))]
                for at, value in samples:
                    polls[at].append((name, labels, value))
    return found


def _selectors(signals: Collection[str], matchers: str) -> Iterator[str]:
    """Yield a selector for each histogram, and one for all other signals."""
    more = f", {matchers}" if matchers else ""
    histograms = [name for name in signals if SIGNALS[name].kind is Kind.HISTOGRAM]
    others = [name for name in signals if name not in histograms]
    for names in (*(f"{name}_({'|'.join(PARTS)})" for name in histograms), f"({'|'.join(others)})"):
        yield f'{{__name__=~"{PREFIX}{names}"{more}}}'


async def _series(client: Client, selector: str, end: float, seconds: float, flag: str) -> list[Series]:
    try:
        return await raw_samples(client, selector, seconds, end)
    except PollError as error:
        hint = _HINTS.get(error.reason, error.reason.hint).replace("{flag}", flag)
        raise UserError(f"Prometheus: {error.reason}: {error.detail}. {hint}") from None
    except OtherProgramError:
        raise UserError("the address answers, but not as the HTTP API of Prometheus; name it without /api/v1") from None
