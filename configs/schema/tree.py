"""What every node of the config tree shares.

A run is one frozen tree: unknown keys are errors, nothing is repaired, nothing is mutated. A field marked
`recorded_only` changes how a stage runs but not what it computes; it is written into the artifact record and left out
of the artifact's key, so that a run can be resumed on other hardware.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Node(BaseModel):
    """A frozen config node in which an unknown key is an error, and so is a value of another type: `true` is no number and
    "6" is none either; a whole number does for a fraction. Infinity and NaN are no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


RECORDED_ONLY: dict[str, JsonValue] = {"recorded_only": True}


def recorded_only(default: Any, **kwargs: Any) -> Any:
    """A field that is recorded with the artifact but is not part of its key."""
    return Field(default, json_schema_extra=RECORDED_ONLY, **kwargs)


def hashed_values(node: Node) -> dict[str, Any]:
    """The JSON-ready values of `node` that belong to an artifact's key: all fields but the `recorded_only` ones."""
    values: dict[str, Any] = {}
    for name, field in type(node).model_fields.items():
        if field.json_schema_extra == RECORDED_ONLY:
            continue
        values[name] = _hashed(getattr(node, name))
    return values


def _hashed(value: Any) -> Any:
    if isinstance(value, Node):
        return hashed_values(value)
    if isinstance(value, dict):
        return {key: _hashed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hashed(item) for item in value]
    return value


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
FileCount = Annotated[int, Field(ge=1, le=100_000)]
"""Files of one artifact: their names have five digits (part-00017.parquet), and their order is that of their names."""
StageName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
"""Names a stage inside a run; also used in file names, hence the narrow alphabet."""
