"""The base of every part of the config."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all parts of the config."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def written(default: str, description: str) -> Any:
    """Declare a key whose default is written as in the file, and checked like a value from the file.

    The result takes the type of the field.
    """
    return Field(default=default, validate_default=True, description=description)
