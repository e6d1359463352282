"""File, environment and command line -> `Config`, or one `ConfigError` with every mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from vllm_sidecar.config.config_errors import ConfigError, describe
from vllm_sidecar.config.document import Document, DocumentError, not_utf_8, read_document
from vllm_sidecar.config.otel_environment import from_otel_environment
from vllm_sidecar.config.overrides import from_environment, from_flags
from vllm_sidecar.config.regular_files import read_regular
from vllm_sidecar.config.schema import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vllm_sidecar.config.config_errors import KeyPath
    from vllm_sidecar.config.overrides import Override

_Model = TypeVar("_Model", bound=BaseModel)
_NOTHING: Mapping[str, Any] = {}
_NO_OVERRIDES: Mapping[KeyPath, Override] = {}


def load(
    path: Path | None, flags: Mapping[str, object] = _NOTHING, environment: Mapping[str, str] = _NOTHING
) -> Config:
    """Load a config file, apply the environment and then the command line over it, and check the result.

    Args:
        path: The file; None for the defaults. Relative paths in it are relative to its folder.
        flags: Values from the command line by dotted path, such as "vllm.url"; texts are read as in the file.
        environment: Variables by name; only those of config keys are used.

    Raises:
        ConfigError: With every mistake found.
    """
    return _checked(Config, _gather_config(path, flags, environment))


def load_as(model: type[_Model], path: Path | None, overrides: Mapping[KeyPath, Override] = _NO_OVERRIDES) -> _Model:
    """Load a file of another kind in the same way.

    Args:
        model: The model of the file.
        path: The file; None for the defaults.
        overrides: Values that replace those of the file.

    Raises:
        ConfigError: With every mistake found.
    """
    return _checked(model, gather(model, path, overrides))


class Gathered(NamedTuple):
    """The values of all sources of a configuration, before they are checked."""

    path: Path | None
    """The file."""
    root: dict[Any, Any]
    """Plain values, those of the file with the others over them."""
    lines: dict[KeyPath, int]
    """The line of each path that the file has."""
    origins: dict[KeyPath, str]
    """For each path that is not from the file, its origin."""
    mistakes: list[tuple[int, str]]
    """Line and text of each mistake in the shape of the file."""


def gather(model: type[BaseModel], path: Path | None, overrides: Mapping[KeyPath, Override]) -> Gathered:
    """Read the file and set the overrides; arguments as of `load_as`.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
    """
    root, lines, mistakes = _read(path) if path else ({}, {}, [])
    # A section whose keys are all commented out is null in YAML; it means the defaults.
    root = {key: value for key, value in root.items() if value is not None or key not in model.model_fields}
    for steps, override in overrides.items():
        _override(root, steps, override.value)
    return Gathered(path, root, lines, {steps: override.origin for steps, override in overrides.items()}, mistakes)


def _gather_config(path: Path | None, flags: Mapping[str, object], environment: Mapping[str, str]) -> Gathered:
    """Gather the configuration of all sources; variables of OpenTelemetry set only what nothing else sets.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
    """
    gathered = gather(Config, path, {**from_environment(environment), **from_flags(flags)})
    for steps, default in from_otel_environment(environment, gathered.root).items():
        _override(gathered.root, steps, default.value)
        gathered.origins[steps] = default.origin
    return gathered


def _checked(model: type[_Model], gathered: Gathered) -> _Model:
    path, root, lines, origins, mistakes = gathered
    try:
        result = model.model_validate(root, context={"folder": path.parent if path else Path()})
    except ValidationError as error:
        mistakes.extend(describe(each, lines, origins, model) for each in error.errors(include_url=False))
        result = None
    if mistakes or result is None:
        raise ConfigError(path, (text for _, text in sorted(mistakes, key=lambda mistake: mistake[0])))
    return result


def _read(path: Path) -> tuple[dict[Any, Any], dict[KeyPath, int], list[tuple[int, str]]]:
    """Read a file into plain values, the line of each path, and the mistakes (line, text) in its shape."""
    root, lines, twice = _document(path)
    if root is not None and not isinstance(root, dict):
        # Not the text itself: the file may be one with a token that was named by mistake.
        got = "a list" if isinstance(root, list) else "one value"
        raise ConfigError(path, [f"line 1: got {got}; allowed: a mapping with the keys of the config"])
    return root or {}, lines, list(twice)


def _document(path: Path) -> Document:
    try:
        return read_document(read_regular(path).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"is {not_utf_8(error.object, error.start)}"]) from None
    except DocumentError as error:
        raise ConfigError(path, [str(error)]) from None


def _override(root: dict[Any, Any], steps: KeyPath, value: object) -> None:
    """Set a value deep in a document; a parent that is not a mapping is left unchanged, and is reported later."""
    for step in steps[:-1]:
        if root.get(step) is None:
            root[step] = {}
        root = root[step]
        if not isinstance(root, dict):
            return
    root[steps[-1]] = value


@dataclass
class ConfigSource:
    """Where the configuration comes from; it is loaded at the start and again at each reload."""

    path: Path | None
    flags: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    _loaded: Config | None = None
    """The last configuration that was loaded without a mistake."""

    def load(self) -> Config:
        """Load the configuration.

        At a reload, a file that no longer sets anything is a mistake: half-written, emptied or with a misplaced key, it
        would silently replace the target with the default.

        Raises:
            ConfigError: With every mistake found.
        """
        config = load(self.path, self.flags, self.environment)
        if self._loaded is not None and self._loaded != config and (lost := self._lost(self._loaded, config)):
            raise ConfigError(self.path, [lost])
        self._loaded = config
        return config

    def gathered(self) -> Gathered:
        """Return the values of all sources with their origins, unchecked.

        Raises:
            ConfigError: The file cannot be read, or is not a mapping.
        """
        return _gather_config(self.path, self.flags, self.environment)

    def _lost(self, before: Config, after: Config) -> str | None:
        if self.path and self._is_blank(after):
            return "is empty or all comments, but the running configuration is not; for the defaults write web: {}"
        if _names_a_server(before) and not _names_a_server(after):
            default = after.vllm.url
            return f"names no server, but the running configuration does: write vllm.url, even if it is {default}"
        return None

    def _is_blank(self, config: Config) -> bool:
        """Return whether the configuration has no file."""
        try:
            bare = load(None, self.flags, self.environment)
        except ConfigError:  # it would be a mistake without the file
            return False
        return set(_given(config)) == set(_given(bare))


def _given(section: BaseModel, parents: KeyPath = ()) -> Iterator[KeyPath]:
    """List the paths of values that were given, not defaults."""
    for name in section.model_fields_set:
        yield (*parents, name)
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _given(value, (*parents, name))


def _names_a_server(config: Config) -> bool:
    """Return whether a configuration itself names the servers or GPUs to watch."""
    listed = bool(config.targets) or config.discovery.is_used
    return listed or config.gpu.only or bool({"url", "unix_socket"} & config.vllm.model_fields_set)
