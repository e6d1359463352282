"""A vLLM command line -> flags and listening address. Pure, and never raises.

Unknown options are skipped together with their values: the value of `--api-key` must never be mistaken for the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from vllm_sidecar.vllm.probes import flag_values
from vllm_sidecar.vllm.probes.flags import FLAGS, SPECULATIVE_OPTIONS, Flag, FlagKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vllm_sidecar.vllm.probes.flag_values import FlagValue

DEFAULT_PORT: Final = 8000
"""vLLM's default of --port in all versions."""

_MAX_WRAPPERS = 16
"""Most words of wrappers before `vllm serve` (`numactl ... vllm serve`)."""

_API_SERVER = re.compile(r"vllm\.entrypoints\.(openai\.)?api_server|.*/vllm/entrypoints/(openai/)?api_server\.py")
_NUMBER = re.compile(r"-[0-9.]+([eE][+-]?[0-9]+)?")
_SECRET = re.compile(r"--(api-key|hf-token|ssl-.*|.*(secret|password|passwd|credential|access-token|auth-token).*)")
_DYNAMIC_NAME = re.compile(r"(?<=--)[^.]*")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The content of a command line: the whitelisted `flags` that were given, and where the server listens.

    `host` and `uds` are None when not given. `port` is 8000 when not given, None when a `--config` file may set it.
    `headless` servers run engines without HTTP.
    """

    flags: Mapping[str, FlagValue] = field(default_factory=dict)
    host: str | None = None
    port: int | None = DEFAULT_PORT
    uds: str | None = None
    headless: bool = False


@dataclass(frozen=True, slots=True)
class _Option:
    """One occurrence: canonical `name` ('' for the positional model), dotted `key`, and its values."""

    name: str
    key: str
    given: tuple[str, ...]


def _spellings() -> Iterator[tuple[str, tuple[Flag, bool]]]:
    for flag in FLAGS:
        dashed = flag.name.replace("_", "-")
        for option in (f"--{dashed}", *flag.options):
            yield option, (flag, True)
        if flag.kind is FlagKind.BOOL:
            yield f"--no-{dashed}", (flag, False)


_BY_OPTION: Final[Mapping[str, tuple[Flag, bool]]] = dict(_spellings())
_LISTENING: Final = ("--host", "--port", "--uds")
_VALUED: Final = frozenset((*_LISTENING, "--config", *SPECULATIVE_OPTIONS))


def server_arguments(argv: Sequence[str]) -> tuple[str, ...] | None:
    """Return what follows `vllm serve` or `python -m vllm.entrypoints.openai.api_server`; None for other programs."""
    for i, word in enumerate(argv[:_MAX_WRAPPERS]):
        following = argv[i + 1] if i + 1 < len(argv) else ""
        name = PurePath(word).name
        if following == "serve" and (name == "vllm" or word == "vllm.entrypoints.cli.main"):
            return tuple(argv[i + 2 :])
        if _API_SERVER.fullmatch(word):
            return tuple(argv[i + 1 :])
    return None


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse a vLLM command line, complete or only the part after `vllm serve`.

    `--name value`, `--name=value`, dashes or underscores, short forms, `--no-name`, JSON and `--name.key value` are all
    parsed, as by vLLM's FlexibleArgumentParser (0.4.3 and later; dotted names 0.8.5). Abbreviated names are not.
    """
    found = server_arguments(argv)
    raw: dict[str, object] = {}
    nested: dict[str, dict[str, object]] = {}
    plain: dict[str, str] = {}
    for option in _options(argv if found is None else found):
        _collect(option, raw, nested, plain)
    for name, keys in nested.items():
        raw[name] = {**(flag_values.document(raw.get(name)) or {}), **keys}
    if "speculative_config" in raw:
        raw["num_speculative_tokens"] = raw["speculative_config"]
    read = {flag.name: flag.value(raw[flag.name]) for flag in FLAGS if flag.name in raw}
    unset = None if "--config" in plain else DEFAULT_PORT
    port = flag_values.integer(plain["--port"]) if "--port" in plain else unset
    return Arguments(
        flags={name: value for name, value in read.items() if value is not None},
        host=plain.get("--host"),
        port=port,
        uds=plain.get("--uds"),
        headless="--headless" in plain,
    )


def _collect(
    option: _Option,
    raw: dict[str, object],
    nested: dict[str, dict[str, object]],
    plain: dict[str, str],
) -> None:
    """Sort one option into whitelisted flags, keys of JSON flags, and flags that only set the listening address."""
    value = option.given[0] if option.given else ""
    if option.name in SPECULATIVE_OPTIONS:
        nested.setdefault("speculative_config", {})[SPECULATIVE_OPTIONS[option.name]] = value
    elif option.name in _BY_OPTION:
        flag, positive = _BY_OPTION[option.name]
        if flag.kind is FlagKind.BOOL:
            given = flag_values.truth(value) if option.given else True
            raw[flag.name] = given if given is None else given is positive
        elif option.key and flag.nested:
            nested.setdefault(flag.name, {})[option.key] = value
        elif option.given and not option.key:
            raw[flag.name] = option.given if flag.many else value
    elif option.name == "":
        raw.setdefault("model", value)
    elif option.name in _VALUED or option.name == "--headless":
        plain[option.name] = value


def _options(args: Sequence[str]) -> Iterator[_Option]:
    """Split a command line into options; a bare word is the model only if it cannot be the value of an unknown option.

    argparse accepts the model anywhere. Here it is accepted at the start or right after a known option.
    """
    i, bare = 0, True
    while i < len(args) and args[i] != "--":
        word = args[i]
        if not _is_option(word):
            if bare:
                yield _Option("", "", (word,))
            i, bare = i + 1, False
            continue
        spelled, has_value, inline = word.partition("=")
        spelled = _DYNAMIC_NAME.sub(lambda m: m[0].replace("_", "-"), spelled, count=1)
        name, _, key = spelled.partition(".")
        count = 0 if has_value else _count_values(name, key, args[i + 1 :])
        known = name in _BY_OPTION or name in _VALUED
        yield _Option(name, key, (inline,) if has_value else tuple(args[i + 1 : i + 1 + count]))
        i, bare = i + 1 + count, known


def _count_values(name: str, key: str, following: Sequence[str]) -> int:
    """Count the values after an option."""
    flag = _BY_OPTION[name][0] if name in _BY_OPTION else None
    if flag is not None and flag.kind is FlagKind.BOOL:
        # V0's --enable-chunked-prefill took an optional value (0.5 to 0.8); later bools take none.
        return int(bool(following) and following[0].lower() in {"true", "false"})
    words = 0
    while words < len(following) and not _is_option(following[words]):
        words += 1
    if key or name in _VALUED or (flag is not None and not flag.many):
        return min(words, 1)
    if flag is None and _SECRET.fullmatch(name):
        return max(words, min(1, len(following)))
    return words


def _is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and not _NUMBER.fullmatch(word)
