"""Prometheus' HTTP API, as far as commands read it; VictoriaMetrics, Thanos and Mimir have the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_sidecar.vllm.client import Client

Series = tuple[dict[str, str], list[tuple[float, float]]]
"""The labels of a series, and its samples: Unix time and value."""


class OtherProgramError(Exception):
    """The address answers, but not as Prometheus does."""


async def raw_samples(client: Client, selector: str, seconds: float, end: float) -> list[Series]:
    """Return the stored samples of a selector in the seconds before a Unix time, as they were scraped.

    Args:
        client: Of the address of Prometheus.
        selector: Of instant vectors, such as `up{pod="vllm-0"}`.
        seconds: Length of the window.
        end: Unix time.

    Raises:
        PollError: It cannot be reached, or refuses the query.
        OtherProgramError: Something else answers.
    """
    query = (("query", f"{selector}[{max(1, round(seconds))}s]"), ("time", f"{end:.3f}"))
    answer = await client.get("/api/v1/query", query=query, accept="application/json")
    try:
        data: dict[str, Any] = json.loads(answer.body)["data"]
        if data["resultType"] != "matrix":
            raise OtherProgramError
        return [
            ({str(name): str(value) for name, value in each["metric"].items()},
             [(float(at), float(value)) for at, value in each["values"]])
            for each in data["result"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise OtherProgramError from None


def unix_time(text: str) -> float:
    """Read a Unix time, or ISO 8601 (UTC without a zone).

    Raises:
        ValueError: It is neither.
    """
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
