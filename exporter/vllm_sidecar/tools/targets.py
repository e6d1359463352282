"""The servers that a command of an operator is about: addresses on the command line, otherwise the configuration."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from yarl import URL

from vllm_sidecar.config import Config, NamedTarget, SoleTarget, Target, format_duration, load
from vllm_sidecar.config.flags import add_server_flags, file_of, given_flags
from vllm_sidecar.logs import UserError
from vllm_sidecar.vllm.probes.local_process import local_listener

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

_NOTHING: Mapping[str, object] = MappingProxyType({})
_PAGES = ("/metrics", "/api/v1/status")
"""Paths that are copied together with the address of a server or a sidecar."""


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `serve` also takes: the file of the configuration, and the keys of a server."""
    group = parser.add_argument_group(
        "how to reach the server", "the flags, environment variables and configuration file of 'serve'"
    )
    group.add_argument("--config.file", type=Path, metavar="FILE", help="YAML file of 'serve'")
    add_server_flags(group, without=("url", "labels", "headless"))


def add_login_argument(parser: argparse.ArgumentParser) -> None:
    """Add the login of a sidecar or a Prometheus, which the configuration of a vLLM server has not."""
    parser.add_argument(
        "--basic-auth-file",
        type=Path,
        metavar="FILE",
        help="file with USER:PASSWORD of a sidecar or Prometheus behind a login; not sent to vLLM",
    )


def configuration(arguments: argparse.Namespace, urls: Sequence[str], settings: Mapping[str, object]) -> Config:
    """Return the configuration with these servers; without any, those of the file or the environment.

    Args:
        arguments: Of `add_config_arguments`.
        urls: Addresses of servers; several share all other keys, such as the file with the token.
        settings: Further values by dotted path.

    Raises:
        ConfigError: With every mistake found.
    """
    flags = given_flags(arguments)
    named = flags.pop("config.file", None)
    file = file_of(named if isinstance(named, Path) else None)
    given = {**flags, **settings}
    if not urls:
        return load(file, given, os.environ)
    different = list(dict.fromkeys(map(address_of, urls)))
    configs = [load(file, {**given, "vllm.url": url}, os.environ) for url in different]
    if len(configs) == 1:
        return configs[0]
    targets = tuple(map(_named, configs, names(different)))
    return configs[0].model_copy(update={"vllm": SoleTarget(), "targets": targets})


def other_server(arguments: argparse.Namespace, url: str, settings: Mapping[str, object] = _NOTHING) -> Config:
    """Return how to reach a running sidecar or Prometheus: with the flags that were given, and further values.

    Requests take at most the `timeout` of the arguments.

    Neither the file nor the environment is read: their credentials are those of vLLM, and not for other addresses.

    Raises:
        ConfigError: With every mistake found.
        UserError: The file with the login cannot be used.
    """
    flags = {name: value for name, value in given_flags(arguments).items() if name != "config.file"}
    limit = format_duration(arguments.timeout)
    times = {"scrape.timeout": limit, "scrape.connect_timeout": limit}
    login = {} if arguments.basic_auth_file is None else {"vllm.headers": _login(arguments.basic_auth_file)}
    return load(None, {**flags, **times, **settings, **login, "vllm.url": address_of(url)}, {})


def address_of(url: str) -> str:
    """Return the address of a server from what was copied out of a browser or a scrape configuration."""
    address = url.rstrip("/")
    for page in _PAGES:
        if address.endswith(page):
            return address.removesuffix(page)
    return address


def _login(path: Path) -> dict[str, str]:
    """Return the header of a login."""
    try:
        pair = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--basic-auth-file: cannot read {path}: {getattr(error, 'strerror', None) or 'not text'}"
        ) from None
    if ":" not in pair or "\n" in pair:
        raise UserError(f"--basic-auth-file: {path} must have one line, USER:PASSWORD")
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def with_own_gpus(config: Config) -> Config:
    """Return the configuration without GPUs if all servers run elsewhere: those of this machine are not theirs."""
    if any(local_listener(target.url, target.unix_socket) for target in config.all_targets):
        return config
    return config.model_copy(update={"gpu": config.gpu.model_copy(update={"devices": "none"})})


def _named(config: Config, name: str) -> NamedTarget:
    fields = {key: getattr(config.vllm, key) for key in Target.model_fields}
    return NamedTarget.model_construct(**fields, name=name)


def names(urls: Sequence[str]) -> list[str]:
    """Name servers by their addresses, without the scheme where that distinguishes them."""
    whole = [str(URL(url).with_user(None)).rstrip("/") for url in urls]
    short = [each.partition("://")[2] for each in whole]
    return [name if short.count(name) == 1 else full for name, full in zip(short, whole, strict=True)]
