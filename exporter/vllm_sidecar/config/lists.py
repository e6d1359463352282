"""Checks on a list as a whole, reported together with the mistakes of its items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from vllm_sidecar.config.values import not_allowed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidatorFunctionWrapHandler


def mistake(path: tuple[int | str, ...], allowed: str, value: object) -> InitErrorDetails:
    """Describe a mistake at `path` below a key."""
    return InitErrorDetails(type=not_allowed(allowed), loc=path, input=value)


def validated(
    key: str, mistakes: Iterable[InitErrorDetails], handler: ValidatorFunctionWrapHandler, value: object
) -> object:
    """Return the valid list of a key.

    Raises:
        ValidationError: There are mistakes in the list as a whole, or in its items; with all of them.
    """
    found = list(mistakes)
    result = None
    try:
        result = handler(value)
    except ValidationError as error:
        found.extend(
            InitErrorDetails(
                type=PydanticCustomError(each["type"], "{allowed}", {"allowed": each["msg"], **each.get("ctx", {})}),
                loc=each["loc"],
                input=each["input"],
            )
            for each in error.errors(include_url=False)
        )
    if found:
        raise ValidationError.from_exception_data(key, found)
    return result
