"""Adapters and the model they were trained on -> a model of its own.

artifact with adapter/ --adapters_of--> its base, however many stages went on with the adapters
adapter + base --merge_into--> model directory | --merge_into_artifact--> model artifact, lineage to both
"""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from cluster.artifacts import Artifact, artifact_around, artifact_key, attempt, find_artifact
from cluster.storage import Store
from configs.errors import UserError
from configs.schema.run import UNKNOWN_LICENCE

ADAPTER_DIRECTORY = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
MERGE_VERSION = 2
"""Raised by hand when the same parts would give another model: it renews the key."""


class MergeError(UserError):
    """What was named cannot be merged; the message says how to mend it."""


@dataclass(frozen=True)
class Adapters:
    """Adapters and the artifact whose weights they are added to."""

    adapter: Store
    base: Artifact


@dataclass(frozen=True)
class Part:
    """One of the two things that are merged."""

    directory: Store
    artifact: Artifact | None
    """None where it is given as a directory."""

    @property
    def record(self) -> dict[str, Any] | None:
        """What is known of it: of the artifact, also of the one that the directory lies in. Raises ArtifactNotFound."""
        known = self.artifact or artifact_around(self.directory)
        return None if known is None else known.record


def adapters_of(store: Store, artifact: Artifact) -> Adapters:
    """The adapters an artifact was trained with. Raises MergeError where there are none."""
    adapter = artifact.content.below(ADAPTER_DIRECTORY)
    if not adapter.exists(ADAPTER_CONFIG):
        raise MergeError(
            f"{artifact.name} ({artifact.kind}-{artifact.key}) has no adapters: it was not trained with `lora`"
        )
    kind, _, key = artifact.record["parents"]["model"].rpartition("-")
    model = find_artifact(store, kind, key)
    if model is None:
        raise MergeError(f"{kind}-{key}, which the adapters of {artifact.name} belong to, is gone; name it with --base")
    if artifact.record["settings"]["lora"].get("start") == "continue":
        return Adapters(adapter, adapters_of(store, model).base)
    return Adapters(adapter, model)


def merge_into(adapter: Store, base: Store, output: Store) -> str:
    """Writes a model directory; what was added to what, in words.

    Raises AdapterError where the two do not fit, MergeError where there is something already.
    """
    from jobs.train.adapters import SCORE_NAME
    from jobs.train.merge import export_merged, read_adapters, write_reward_config
    from jobs.train.reward_scale import read_scale, write_scale

    if output.names():
        raise MergeError(f"{output.root} is not empty; name another place")
    tensors, lora = read_adapters(adapter)
    export_merged(tensors, lora, base, output)
    if SCORE_NAME in tensors:
        write_reward_config(output)
        scale = read_scale(adapter)
        if scale is not None:
            write_scale(scale, output)
    return f"rank {lora.rank} on {'the weights dequantised from 4 bits' if lora.base == 'nf4' else 'the weights as stored'}"


def merge_into_artifact(store: Store, name: str, adapter: Part, base: Part) -> Artifact:
    """A model artifact; one of the same parts that is there already is taken as it is. Raises as `merge_into`."""
    from cluster.session import versions
    from jobs.corpus.gate import allowed_of

    parts = {"adapter": adapter, "base": base}
    parents = {role: f"{part.artifact.kind}-{part.artifact.key}" for role, part in parts.items() if part.artifact}
    loose = {role: part for role, part in parts.items() if part.artifact is None}
    config: dict[str, Any] = {"merged": {role: _digest(part.directory) for role, part in loose.items()}}
    licences, allowed = _licences(parts), allowed_of(part.record or {} for part in parts.values())
    if any(part.record for part in loose.values()):  # the same files from elsewhere may do something else
        config["terms"] = {"licences": licences, "allowed": [*allowed]}
    key = artifact_key("model", MERGE_VERSION, config, parents)
    began = time.time()
    if find_artifact(store, "model", key) is None:
        with attempt(store, "model", key) as own:
            how = merge_into(adapter.directory, base.directory, own.content.below("model"))
            own.commit({
                "name": name, "run": "merge", "stage_version": MERGE_VERSION, "config": config,
                "settings": {"how": how, **{role: part.directory.root for role, part in parts.items()}},
                "parents": parents, "seed": None,
                "versions": versions(), "started_at": began, "metrics": {}, "counts": {}, "licences": licences,
                "allowed": [*allowed],
            })  # fmt: skip
    done = find_artifact(store, "model", key)
    assert done is not None, key
    return done


def _licences(parts: dict[str, Part]) -> list[str]:
    return sorted({
        licence for part in parts.values() for licence in (part.record or {}).get("licences", [UNKNOWN_LICENCE])
    })  # fmt: skip


def _digest(directory: Store) -> str:
    """sha256 over config and weights of a directory that is no artifact."""
    digest = hashlib.sha256()
    for info in directory.files():
        if info.name.endswith((".safetensors", "config.json")):
            digest.update(json.dumps([info.name, info.size]).encode())
            with directory.open(info.name) as file:
                while chunk := file.read(8 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def base_named_by(adapter: Store) -> str:
    """The path that adapter_config.json gives for its base model. Raises MergeError where there is none."""
    if not adapter.exists(ADAPTER_CONFIG):
        raise MergeError(f"{adapter.root} has no {ADAPTER_CONFIG}: a directory in PEFT's format is needed")
    base = adapter.read_json(ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise MergeError(f"{adapter.root} does not say which model it belongs to; name it with --base")
    return str(base)
