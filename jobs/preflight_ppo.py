"""What can be known of a PPO stage before anything starts: whether its roles fit, its models can be computed, its rewards called.

roles --bundles--> CPUs, GPUs     models --headers--> memory of all roles, disk     functions --import--> callable
"""

from collections.abc import Mapping
from typing import Any

import psutil

from cluster.placement import bundles_of, describe_roles
from configs.errors import DoesNotFit
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import Run
from jobs.fit import (
    ACTIVATION_BYTES_PER_TOKEN_AND_LAYER,
    COMPUTE_BYTES,
    FROZEN_BYTES_PER_PARAMETER,
    GRADIENT_BYTES,
    MASTER_BYTES,
    MOMENT_BYTES,
    RANK_BASELINE_GIB,
    StageSpace,
)
from jobs.origin import Origin, check_context

ENGINE_BASELINE_GIB = 1.1
"""Resident memory of a process with vLLM imported, on a CPU; measured."""


def describe_ppo(stage: PpoStage) -> dict[str, Any]:
    """One line for `acclimate plan`."""
    from jobs.ppo.roles import roles_of

    length = f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs} epochs"
    algorithm = stage.algorithm
    asked = f"{algorithm.prompts_per_step} x {algorithm.answers_per_prompt} answers of at most {stage.max_new_tokens} tokens"
    placed = f"{describe_roles(roles_of(stage))}; {stage.resources.placement}"
    return {"what": f"{length} of {asked}, {algorithm.estimator}, {stage.precision}; {placed}"}


def check_ppo(
    run: Run, name: str, stage: PpoStage, origins: Mapping[str, Origin], prompt_tokens: int | None
) -> StageSpace:
    """The disk it will take.

    Args:
        origins: by config key, the models whose files are at hand.
        prompt_tokens: the longest prompt, where it is known.

    Raises:
        DoesNotFit, ContextTooLong, UnsupportedModel, WeightsError, RewardFunctionError.
    """
    from jobs.model_files import check_model
    from jobs.train.trainable import require_computable

    if run.cluster.address == "local":
        _check_cpus(run, name, stage)
    _check_functions(stage)
    policy = origins.get("model")
    if policy is None:
        return StageSpace(name, 0)
    longest = (prompt_tokens or 0) + stage.max_new_tokens
    for key, origin in origins.items():
        check_context(f"stages.{name}.max_new_tokens + context of {stage.shards}", longest, key, origin)
    shape = require_computable(policy.directory, policy.trust_remote_code, "logprobs", stage.lora, longest)
    facts = check_model(policy.directory)
    state = MASTER_BYTES + MOMENT_BYTES[stage.optimizer.state]
    trained = shape.trained + (facts.parameters if stage.needs_critic else 0)
    if run.cluster.address == "local" and not stage.resources.policy.gpus_per_rank:
        _check_memory(name, stage, facts.parameters, trained, shape.layers * shape.hidden)
    return StageSpace(name, facts.bytes, int((stage.checkpoints.keep + 1) * trained * state), stage.checkpoints.keep)


def _check_cpus(run: Run, name: str, stage: PpoStage) -> None:
    from jobs.ppo.roles import roles_of

    roles = roles_of(stage)
    bundles, _ = bundles_of(roles, stage.resources.placement)
    custom = sorted({kind for bundle in bundles for kind in bundle} - {"CPU", "GPU"})
    if custom:
        raise DoesNotFit(
            f"stages.{name}.resources asks for {', '.join(custom)}; the Ray started here has no custom_resources. Remove them, "
            "or set cluster.address to a cluster whose nodes offer them."
        )
    needed = sum(bundle["CPU"] for bundle in bundles)
    if needed > run.cluster.offered_cpus:
        raise DoesNotFit(
            f"stages.{name}.resources asks for {needed:g} CPUs ({describe_roles(roles)}; {stage.resources.placement}); the Ray "
            f"started here offers {run.cluster.offered_cpus}. Set placement: colocated, where the roles take turns, ask for "
            "fewer ranks or threads, or set cluster.logical_cpus."
        )


def _check_functions(stage: PpoStage) -> None:
    from jobs.ppo.reward_functions import import_function
    from jobs.ppo.roles import judges_of

    for source in judges_of(stage).values():
        if source.function is not None:
            import_function(source.function)


def _check_memory(name: str, stage: PpoStage, parameters: int, trained: int, activations: int) -> None:
    """All models are of about the policy's size; each rank has its share of them."""
    from jobs.ppo.roles import judges_of

    resources = stage.resources
    frozen = int(stage.loads_reference) + sum(source.model is not None for source in judges_of(stage).values())
    models = trained * (GRADIENT_BYTES + COMPUTE_BYTES + 2 * (MASTER_BYTES + MOMENT_BYTES[stage.optimizer.state]))
    models += frozen * parameters * FROZEN_BYTES_PER_PARAMETER[stage.precision]
    sampler = parameters * FROZEN_BYTES_PER_PARAMETER[stage.precision]
    engine = sampler + (resources.rollout.kv_cache_gib + ENGINE_BASELINE_GIB) * 2**30
    per_rank = RANK_BASELINE_GIB * 2**30 + stage.micro_batch_tokens * activations * ACTIVATION_BYTES_PER_TOKEN_AND_LAYER
    learners = resources.policy.ranks + (resources.critic.ranks if stage.needs_critic else 0)
    needed = models + learners * per_rank + frozen * RANK_BASELINE_GIB * 2**30 + resources.rollout.ranks * engine
    free = psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFit(
            f"stages.{name} needs about {needed / 2**30:.1f} GiB of memory for all its models of {parameters / 1e6:,.1f} M "
            f"parameters, {free / 2**30:.1f} GiB are free. Use `lora`, lower micro_batch_tokens (now "
            f"{stage.micro_batch_tokens}) or rollout.kv_cache_gib, set activation_checkpointing: true, or take a smaller model."
        )
