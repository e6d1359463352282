"""The command `serve`: its flags, which are the keys of the configuration, and the start of the program."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar import logs
from vllm_sidecar.config import CONFIG_FILE, ConfigSource, unknown_variables
from vllm_sidecar.config.flags import add_flags, file_of, given_flags
from vllm_sidecar.config.listening import listening

if TYPE_CHECKING:
    import argparse

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.description = "Poll vLLM each second, read its GPUs, and serve the result for Prometheus on /metrics."
    parser.epilog = (
        "Every key of the configuration can be set by an environment variable, VLLM_SIDECAR_<SECTION>_<KEY>.\n"
        "A flag goes before the environment, and the environment before the file.\n\n"
        "examples:\n"
        "  vllm-sidecar serve                                   # vLLM on http://127.0.0.1:8000\n"
        "  vllm-sidecar serve --vllm.url http://10.0.0.7:8000\n"
        "  vllm-sidecar serve --config.file /etc/vllm-sidecar/config.yaml\n"
        "  VLLM_SIDECAR_SCRAPE_INTERVAL=2s vllm-sidecar serve\n"
        "  vllm-sidecar serve --gpu.only                        # the GPUs of this node, no vLLM"
    )
    parser.add_argument(
        "--config.file", type=Path, metavar="FILE", help=f"YAML file; without it, the defaults; also as {CONFIG_FILE}"
    )
    add_flags(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it, and return the exit code."""
    flags = given_flags(arguments)
    given = flags.pop("config.file", None)
    source = ConfigSource(file_of(given if isinstance(given, Path) else None), flags, os.environ)
    config = source.load()
    logs.setup(config.log.level, config.log.format)
    for problem in unknown_variables(os.environ):
        logs.event(_log, logging.WARNING, "unknown_variable", detail=problem)
    from vllm_sidecar.serve.app import run as serve  # slow to load, and not needed for --help

    try:
        return listening(config.web.listen_address, "--web.listen-address", lambda: serve(config, source.load))
    except logs.UserError:
        raise
    except Exception as error:
        logs.event(_log, logging.ERROR, "internal_error", exc_info=error)
        raise
