"""All groups of faults, by the title in the table."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import commands
import configuration
import drivers
import generating
import http_answers
import lists
import many_series
import planted
import port
import pushes
import several
import situations
import surroundings
import texts
import tool_inputs
import values
import watched
from table import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW = 2
"""Floods at a time: each is as much work as a hundred servers."""
GROUPS: Mapping[str, Kind] = MappingProxyType(
    {
        "Statuses of /metrics": Kind(http_answers.statuses, watched.run),
        "Connections and framing of /metrics": Kind(http_answers.framing, watched.run),
        "Encodings and types of /metrics": Kind(http_answers.encodings, watched.run),
        "Text of /metrics": Kind(texts.texts, watched.run),
        "Values of /metrics": Kind(values.values, watched.run),
        "Labels of /metrics": Kind(many_series.labels, watched.run),
        "Floods of series in /metrics": Kind(many_series.floods, partial(watched.run, batch=FEW)),
        "Configuration": Kind(configuration.configurations, commands.judged),
        "Thresholds and the generator": Kind(generating.thresholds, commands.judged),
        "Inputs of tools": Kind(tool_inputs.tool_inputs, commands.judged),
        "The port of the sidecar": Kind(port.requests, port.judged),
        "Signals, streams, limits and reloads": Kind(surroundings.surroundings, situations.judged),
        "The NVIDIA driver": Kind(drivers.drivers, situations.judged),
        "Several servers": Kind(several.neighbors, several.judged),
        "Lists of servers": Kind(lists.lists, lists.judged),
        "Receivers of OTLP": Kind(pushes.receivers, pushes.judged),
        "Secrets": Kind(planted.ways, planted.judged),
    }
)
