"""The command `serve`: its flags, which are the keys of the configuration, and the start of the program."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar import logs
from vllm_sidecar.config import CONFIG_FILE, Config, ConfigSource, is_secret, keys, kinds, unknown_variables
from vllm_sidecar.config.listening import listening

if TYPE_CHECKING:
    import argparse

    from pydantic.fields import FieldInfo

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
    # These flags are the keys of the configuration, so that one text explains both; the configuration checks values.
    parser.add_argument(
        "--web.listen-address",
        dest="web.listen_address",
        metavar="ADDRESS",
        help=f"where to serve: HOST:PORT or :PORT (default {Config().web.listen_address})",
    )
    parser.add_argument("--gpu.only", action="store_true", default=None, help="watch the GPUs of this node and no vLLM")
    parser.add_argument(
        "--gpu.simulate", action="store_true", default=None, help="read the GPUs from the simulator instead of NVML"
    )
    parser.add_argument("--log.level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    parser.add_argument("--log.format", metavar="FORMAT", help="logfmt or json (default logfmt)")
    for path, field in keys():
        if path[0] == "vllm" and not is_secret(field):
            _add_key(parser, path, field)
    parser.set_defaults(command=run)


def _add_key(parser: argparse.ArgumentParser, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the flag of a key, such as --vllm.ca-file; one that is true or false may be given without a value."""
    dotted = ".".join(path)
    flag = "--" + dotted.replace("_", "-")
    text = str(field.description).rstrip(".").replace("%", "%%")
    if isinstance(field.default, str):
        text += f" (default {field.default})"
    if bool in kinds(field):
        parser.add_argument(flag, dest=dotted, metavar="BOOL", help=text, nargs="?", const="true")
    else:
        parser.add_argument(flag, dest=dotted, metavar=path[-1].upper(), help=text)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it, and return the exit code."""
    flags = {name: value for name, value in vars(arguments).items() if "." in name and value is not None}
    variable = os.environ.get(CONFIG_FILE)
    file: Path | None = flags.pop("config.file", None) or (Path(variable) if variable else None)
    source = ConfigSource(file, flags, os.environ)
    config = source.load()
    logs.setup(config.log.level, config.log.format)
    for problem in unknown_variables(os.environ):
        logs.event(_log, logging.WARNING, "unknown_variable", detail=problem)
    from vllm_sidecar.serve.app import serve  # slow to load, and not needed for --help
    from vllm_sidecar.vllm.waiting import new_event_loop

    def run_loop() -> int:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(config, source.load))

    try:
        return listening(config.web.listen_address, "--web.listen-address", run_loop)
    except Exception as error:
        logs.event(_log, logging.ERROR, "internal_error", exc_info=error)
        raise
