"""Bodies of vLLM's introspection endpoints, and labels of cache_config_info -> Facts.

A server is not trusted: types are checked, texts and lists are cut, and only whitelisted flags pass. Any other body
raises ValueError with a text that contains nothing of the body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vllm_sidecar.vllm.plausible import MOST_NOW
from vllm_sidecar.vllm.probes import flag_values
from vllm_sidecar.vllm.probes.flags import FLAGS, Flag, Path
from vllm_sidecar.vllm.probes.identity import Facts, ModelCard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.vllm.probes.flag_values import FlagValue

MAX_MODELS: Final = 1000
"""Most cards that are read of /v1/models; more adapters are left out."""

_MAX_CONFIG_TEXT = 262144
"""Most characters that are read of the text form of /server_info; 0.32.0 writes about 4000."""

_MISSING: Final = object()


def parse_version(body: bytes) -> Facts:
    """Read /version (0.4.0 and later): `{"version": "0.32.0"}`, with the Rust front end also its own version.

    Raises:
        ValueError: The body has another form.
    """
    answer = _object(body)
    version = flag_values.text(answer.get("version"))
    if version is None:
        raise ValueError('no text under "version"')
    return Facts(version=version, rust_frontend_version=flag_values.text(answer.get("rust_frontend_version")))


def parse_models(body: bytes) -> Facts:
    """Read /v1/models: the cards, and the flags that the first base model shows.

    `created` and `permission` are dropped: both are new in every answer. max_model_len is None before 0.5.0 and
    for LoRA adapters.

    Raises:
        ValueError: The body has another form, or no card with an id.
    """
    cards = _object(body).get("data")
    if not isinstance(cards, list):
        raise ValueError('no list under "data"')  # noqa: TRY004 - callers catch ValueError for any bad body
    read = (_card(card) for card in cards[:MAX_MODELS])
    # A name may be served twice, and a proxy may join the lists of several servers.
    models = tuple({(model.id, model.root, model.parent): model for model in read if model is not None}.values())
    if not models:
        raise ValueError('no model with an "id" under "data"')
    base = next((model for model in models if model.parent is None), None)
    flags: dict[str, FlagValue] = {}
    if base is not None:
        shown = {"model": base.root, "served_model_name": base.id, "max_model_len": base.max_model_len}
        flags = {name: value for name, value in shown.items() if value is not None}
    return Facts(models=models, flags=flags)


def parse_server_info(body: bytes) -> Facts:
    """Read /server_info of dev mode: nested (`?config_format=json`, 0.11.0 and later) or one text (0.8.5 to 0.10).

    Raises:
        ValueError: The body has another form.
    """
    config = _object(body).get("vllm_config")
    if isinstance(config, Mapping):
        return Facts(flags=dict(_flags_of_config(config)))
    if isinstance(config, str):
        return Facts(flags=dict(_flags_of_text(config[:_MAX_CONFIG_TEXT])))
    raise ValueError('neither an object nor a text under "vllm_config"')


def parse_load(body: bytes) -> Facts:
    """Read /load (0.8.0 and later): requests in flight in this API server process.

    Raises:
        ValueError: The body has another form.
    """
    load = flag_values.real(_object(body).get("server_load"))
    if load is None or not 0.0 <= load <= MOST_NOW:
        raise ValueError('no number of requests under "server_load"')
    return Facts(requests_in_flight=load)


def parse_cache_config(labels: Mapping[str, str]) -> Facts:
    """Read the whitelisted labels of cache_config_info; the text `None` means that vLLM itself has no value."""
    flags: dict[str, FlagValue] = {}
    for flag in FLAGS:
        flags.update(_reported(flag, labels.get(flag.label, _MISSING) if flag.label else _MISSING))
    return Facts(flags=flags)


def _object(body: bytes) -> Mapping[str, object]:
    try:
        answer = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(answer, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - callers catch ValueError for any bad body
    return answer


def _card(card: object) -> ModelCard | None:
    if not isinstance(card, Mapping):
        return None
    name = flag_values.text(card.get("id"))
    if name is None:
        return None
    return ModelCard(
        id=name,
        root=flag_values.text(card.get("root")),
        parent=flag_values.text(card.get("parent")),
        max_model_len=flag_values.positive(card.get("max_model_len")),
    )


def _flags_of_config(config: Mapping[str, object]) -> Iterator[tuple[str, FlagValue]]:
    for flag in FLAGS:
        raw = next((found for path in flag.paths if (found := _at(config, path)) is not _MISSING), _MISSING)
        yield from _reported(flag, raw)


def _flags_of_text(config: str) -> Iterator[tuple[str, FlagValue]]:
    pairs = dict(_pairs(config))
    for flag in FLAGS:
        yield from _reported(flag, pairs.get(flag.key, _MISSING) if flag.key else _MISSING)


def _reported(flag: Flag, raw: object) -> Iterator[tuple[str, FlagValue]]:
    value = None if raw is _MISSING else flag.value(raw)
    if value is not None:
        yield flag.name, value


def _at(config: Mapping[str, object], path: Path) -> object:
    found: object = config
    for key in path:
        if not isinstance(found, Mapping) or key not in found:
            return _MISSING
        found = found[key]
    return found


def _pairs(config: str) -> Iterator[tuple[str, str]]:
    """Split `model='x', speculative_config=None, other=Other(a=1, b=2)` at its outermost commas."""
    start, depth, quote, escaped = 0, 0, "", False
    for i, c in enumerate(config + ","):
        if escaped:
            escaped = False
        elif quote:
            escaped = c == "\\"
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            name, _, value = config[start:i].strip().partition("=")
            yield name, _unquoted(value)
            start = i + 1


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
