"""Configuration: YAML file, environment and command line -> `Config`; an invalid `Config` cannot exist.

The only part of the program that reads YAML. All mistakes of a file are reported at once, in a `ConfigError`.
"""

from vllm_sidecar.config.canary import CanaryPrompt, CanarySettings, Expectation
from vllm_sidecar.config.config_errors import ConfigError
from vllm_sidecar.config.discovery import (
    DiscoveredTarget,
    DiscoverySettings,
    DnsList,
    FileList,
    HttpList,
    PodList,
    ServerList,
)
from vllm_sidecar.config.gpu import GpuSettings
from vllm_sidecar.config.loader import ConfigSource, load
from vllm_sidecar.config.otlp import OtlpSettings
from vllm_sidecar.config.overrides import CONFIG_FILE, flag, is_secret, keys, kinds, unknown_variables, variable
from vllm_sidecar.config.schema import (
    Config,
    LimitSettings,
    LogSettings,
    MetricSettings,
    ProbeSettings,
    ProgressSettings,
    ScrapeSettings,
    WindowSettings,
)
from vllm_sidecar.config.service_levels import LatencyObjective, SloSettings
from vllm_sidecar.config.targets import HttpServer, NamedTarget, SoleTarget, Target
from vllm_sidecar.config.values import TAKEN_LABELS, format_duration, parse_duration
from vllm_sidecar.config.web import DEFAULT_PORT, WebSettings

__all__ = [
    "CONFIG_FILE",
    "DEFAULT_PORT",
    "TAKEN_LABELS",
    "CanaryPrompt",
    "CanarySettings",
    "Config",
    "ConfigError",
    "ConfigSource",
    "DiscoveredTarget",
    "DiscoverySettings",
    "DnsList",
    "Expectation",
    "FileList",
    "GpuSettings",
    "HttpList",
    "HttpServer",
    "LatencyObjective",
    "LimitSettings",
    "LogSettings",
    "MetricSettings",
    "NamedTarget",
    "OtlpSettings",
    "PodList",
    "ProbeSettings",
    "ProgressSettings",
    "ScrapeSettings",
    "ServerList",
    "SloSettings",
    "SoleTarget",
    "Target",
    "WebSettings",
    "WindowSettings",
    "flag",
    "format_duration",
    "is_secret",
    "keys",
    "kinds",
    "load",
    "parse_duration",
    "unknown_variables",
    "variable",
]
