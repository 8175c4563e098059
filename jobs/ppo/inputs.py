"""Finished artifacts -> what the actors of a PPO stage need to know, after the checks that need the artifacts' files.

model, shards, reference, critic, rewards --same tokens everywhere?--> PpoJob
"""

import math
from collections.abc import Mapping

from cluster.artifacts import Artifact, Attempt
from configs.schema.ppo_stage import PpoStage
from jobs.corpus.gate import require_purpose
from jobs.corpus.schema import DataError
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
from jobs.corpus.template import end_token_ids
from jobs.ppo.job import PpoJob
from jobs.train.reader import read_index


def ppo_job(
    name: str, stage: PpoStage, seed: int, inputs: Mapping[str, Artifact], attempt: Attempt, trust_remote_code: bool
) -> PpoJob:
    """Raises DataError where prompts and models do not belong together, or there are too few prompts."""
    model, shards = inputs["model"], inputs["shards"]
    directory = model.content.below("model")
    manifest = shards.content.read_json("manifest.json")
    if manifest["rows"] != "prompts":
        raise DataError(
            f"stages.{name}.shards: {shards.name} has `rows: {manifest['rows']}`, a ppo stage asks `rows: prompts`"
        )
    require_purpose(shards.name, manifest, "train")
    files = read_tokenizer_files(directory, trust_remote_code)
    if files.sha256 != manifest["tokenizer_sha256"]:
        raise DataError(
            f"stages.{name}: {shards.name} was made with another tokenizer or template than {model.name} has; set "
            f"stages.{shards.name}.model to the model that is trained, or to one it comes from"
        )
    for key, artifact in inputs.items():
        if key in ("model", "shards"):
            continue
        if _vocabulary(artifact, trust_remote_code) != load_tokenizer(files).get_vocab():
            raise DataError(
                f"stages.{name}.{key}: {artifact.name} has another vocabulary than {model.name}, whose answers it would read "
                "as other words. Train it from the same base model."
            )
    prompts = len(read_index(shards.content, "train"))
    if stage.heldout is not None and manifest["heldout"]["rows"] == 0:
        raise DataError(
            f"stages.{name}.heldout: {shards.name} has no held-out prompts; raise heldout_fraction of its corpus"
        )
    steps = steps_of(name, stage, prompts)
    below = {key: artifact.content.below("model") for key, artifact in inputs.items() if key != "shards"}
    ends = end_token_ids(directory, load_tokenizer(files))
    return PpoJob(
        name, stage, seed, directory,
        below.get("reference", directory) if stage.loads_reference else None,
        below.get("critic", directory) if stage.needs_critic else None,
        {int(key.partition(".")[2]): store for key, store in below.items() if key.startswith("rewards.")},
        below.get("heldout.gold"),
        shards.content, tuple(sorted(ends)), int(manifest["context"]), steps,
        attempt.directory, attempt.number, attempt.content, trust_remote_code,
    )  # fmt: skip


def steps_of(name: str, stage: PpoStage, prompts: int) -> int:
    """How many steps a stage takes over so many prompts. Raises DataError where the policy would learn in none of them."""
    if stage.steps is not None:
        return stage.steps
    assert stage.epochs is not None
    steps = max(1, math.ceil(stage.epochs * prompts / stage.algorithm.prompts_per_step))
    waits = stage.algorithm.critic_warmup_steps
    if waits >= steps:
        raise DataError(
            f"stages.{name}.algorithm.critic_warmup_steps ({waits}): {stage.epochs:g} epochs over {prompts} prompts are {steps} "
            "steps, none is left in which the policy learns; lower it, or raise epochs"
        )
    return steps


def _vocabulary(model: Artifact, trust_remote_code: bool) -> dict[str, int]:
    """Which number means which token; templates and the format of the files may differ between a policy and those who judge."""
    return load_tokenizer(read_tokenizer_files(model.content.below("model"), trust_remote_code)).get_vocab()
