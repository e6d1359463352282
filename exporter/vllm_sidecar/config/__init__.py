"""Configuration: YAML file, environment and command line -> `Config`; an invalid one cannot exist.

The only part of the program that reads YAML. All mistakes of a file are reported at once, in a `ConfigError`.
"""

from vllm_sidecar.config.gpu import Gpu
from vllm_sidecar.config.loader import Source, load
from vllm_sidecar.config.mistakes import ConfigError
from vllm_sidecar.config.objectives import LatencyObjective, Slos
from vllm_sidecar.config.overrides import CONFIG_FILE, is_secret, keys, kinds, unknown_variables, variable
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
    "CONFIG_FILE",
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
    "Source",
    "Target",
    "Web",
    "Windows",
    "format_duration",
    "format_size",
    "is_secret",
    "keys",
    "kinds",
    "load",
    "parse_duration",
    "parse_size",
    "unknown_variables",
    "variable",
]
