"""Longer contexts by scaled rotary angles, written into a model's config.json so that whoever loads the model has them.

stages.BASE.rope_scaling + config.json of the source --scaled_config--> config.json of the artifact
training, export, adapters' base, transformers and vLLM read the latter
"""

from typing import Any

from configs.errors import UserError
from configs.schema.run import RopeScaling

WINDOW = "max_position_embeddings"


class RopeError(UserError):
    """This model's angles cannot be scaled; the message says why."""


def scaled_config(config: dict[str, Any], scaling: RopeScaling, root: str) -> dict[str, Any]:
    """The values of a config.json with scaled angles and a window `factor` times as long.

    They are written where the file has them: `rope_parameters` as transformers 5 calls them, else `rope_scaling`, which
    transformers 5 reads too.

    Raises:
        RopeError: no window, angles that are scaled already, or other ones for each kind of layer.
    """
    window = config.get(WINDOW)
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    before: dict[str, Any] = config.get(key) or {}
    kind = before.get("rope_type", before.get("type", "default"))
    problem = None
    if not isinstance(window, int):
        problem = f"it has no {WINDOW}, so there is nothing that `factor` could multiply"
    elif any(isinstance(value, dict) for value in before.values()):
        problem = f"its {key} differ between layers ({', '.join(before)})"
    elif kind != "default":
        problem = f"it is scaled already ({key}: {before})"
    if problem is not None or not isinstance(window, int):
        raise RopeError(
            f"rope_scaling: {root}/config.json: {problem}. Leave `rope_scaling` out, or write what you want into a copy of its "
            "config.json."
        )
    after = {name: value for name, value in before.items() if name != "type"} | scaling.model_dump(exclude_none=True)
    if scaling.rope_type != "linear":
        after["original_max_position_embeddings"] = window
    return {**config, key: after, WINDOW: round(window * scaling.factor)}
