"""Configuration: YAML file and command line -> `Config`; an invalid one cannot exist.

The only part of the program that reads YAML. All mistakes of a file are reported at once, in a `ConfigError`.
"""

from vllm_sidecar.config.gpu import Gpu
from vllm_sidecar.config.loader import load
from vllm_sidecar.config.mistakes import ConfigError
from vllm_sidecar.config.objectives import LatencyObjective, Slos
from vllm_sidecar.config.schema import (
    DEFAULT_PORT,
    Config,
    Introspection,
    Limits,
    Log,
    Progress,
    Scrape,
    Web,
    Windows,
)
from vllm_sidecar.config.target import NamedTarget, SoleTarget, Target
from vllm_sidecar.config.values import RESERVED_LABELS, format_duration, format_size, parse_duration, parse_size

__all__ = [
    "DEFAULT_PORT",
    "RESERVED_LABELS",
    "Config",
    "ConfigError",
    "Gpu",
    "Introspection",
    "LatencyObjective",
    "Limits",
    "Log",
    "NamedTarget",
    "Progress",
    "Scrape",
    "Slos",
    "SoleTarget",
    "Target",
    "Web",
    "Windows",
    "format_duration",
    "format_size",
    "load",
    "parse_duration",
    "parse_size",
]
