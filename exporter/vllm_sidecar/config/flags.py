"""The flags of the commands that read the configuration: its keys, so that one text explains both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sidecar.config.overrides import CONFIG_FILE, flag, is_secret, keys, kinds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping

    from pydantic.fields import FieldInfo

REPEATED = {("web", "listen_address"): "ADDRESS", ("web", "allowed_hosts"): "NAME"}
"""Keys whose flag may be given several times, as in other exporters."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of keys; the configuration checks their values."""
    parser.add_argument("--gpu.only", action="store_true", default=None, help="watch the GPUs of this node and no vLLM")
    parser.add_argument(
        "--gpu.simulate", action="store_true", default=None, help="read the GPUs from the simulator instead of NVML"
    )
    parser.add_argument("--log.level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    parser.add_argument("--log.format", metavar="FORMAT", help="logfmt or json (default logfmt)")
    _add_keys(parser, "web", ())
    add_server_flags(parser)


def add_server_flags(parser: argparse._ActionsContainer, without: Collection[str] = ()) -> None:
    """Add a flag for each key of a server, such as --vllm.ca-file, except secrets and those in `without`."""
    _add_keys(parser, "vllm", without)


def _add_keys(parser: argparse._ActionsContainer, section: str, without: Collection[str]) -> None:
    for path, field in keys():
        if path[0] == section and path[-1] not in without and not is_secret(field):
            _add_key(parser, path, field)


def _add_key(parser: argparse._ActionsContainer, path: tuple[str, ...], field: FieldInfo) -> None:
    """Add the flag of a key, such as --vllm.ca-file; one that is true or false may be given without a value."""
    dotted = ".".join(path)
    text = str(field.description).rstrip(".").replace("%", "%%")
    if path in REPEATED:
        default = f"; default {', '.join(field.default)}" if field.default else ""
        text += f" (may be repeated{default})"
        parser.add_argument(flag(path), dest=dotted, metavar=REPEATED[path], help=text, action="append")
        return
    if isinstance(field.default, str):
        text += f" (default {field.default})"
    if bool in kinds(field):
        parser.add_argument(flag(path), dest=dotted, metavar="BOOL", help=text, nargs="?", const="true")
    else:
        parser.add_argument(flag(path), dest=dotted, metavar=path[-1].upper(), help=text)


def given_flags(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the flags that were given, by the dotted path of their key."""
    return {name: value for name, value in vars(arguments).items() if "." in name and value is not None}


def file_of(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the configuration file: the given one, or that of the environment; None without both."""
    named = environment.get(CONFIG_FILE)
    return given or (Path(named) if named else None)
