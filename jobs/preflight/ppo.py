"""What can be known of a PPO stage before anything starts: whether its roles fit, its models can be computed, its rewards called.

roles --bundles--> CPUs, GPUs     models --headers--> memory of all roles, disk     functions --import--> callable
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from cluster.placement import bundles_of, describe_roles
from configs.errors import DoesNotFit
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import Run, stage_inputs
from jobs.estimate.memory import RankMemory, kv_bytes_per_token
from jobs.estimate.roles import Layout, PpoModels, held_by, judges, layout_of, role_memory
from jobs.preflight.fit import RANK_BASELINE_GIB, StageSpace, checkpoint_bytes
from jobs.preflight.origin import Origin, check_context

if TYPE_CHECKING:
    from jobs.train.trainable import Trainable

ENGINE_BASELINE_GIB = 1.1
"""Resident memory of a process with vLLM imported, on a CPU; measured."""
CACHE_BLOCK_TOKENS = {"cpu": 128, "gpu": 16}
"""In which vLLM 0.29 hands out its cache."""


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
        DoesNotFit, DataError, ContextTooLong, UnsupportedModel, WeightsError, RewardFunctionError.
    """
    from jobs.model_files import check_model
    from jobs.train.trainable import require_computable

    if run.cluster.address == "local":
        _check_cpus(run, name, stage)
    _check_functions(stage)
    policy = origins.get("model")
    if policy is None:
        return StageSpace(name, 0)
    _check_vocabularies(name, stage, origins)
    longest = (prompt_tokens or 0) + stage.max_new_tokens
    for key, origin in origins.items():
        check_context(f"stages.{name}.max_new_tokens + context of {stage.shards}", longest, key, origin)
    found = require_computable(policy.directory, policy.trust_remote_code, "logprobs", stage.lora, longest)
    _check_cache(name, stage, found, longest)
    models = models_of(stage, origins, found)
    trained = sum(held.trained for held in held_by(stage, models).values())
    if run.cluster.address == "local":
        _check_memory(name, stage, memory_of(stage, models, prompt_tokens or 0))
    passing = (stage.checkpoints.keep + 1) * trained * checkpoint_bytes(stage.optimizer)
    return StageSpace(name, check_model(policy.directory).bytes, int(passing), stage.checkpoints.keep)


def models_of(stage: PpoStage, origins: Mapping[str, Origin], policy: "Trainable") -> PpoModels:
    """Sizes of all models of a stage; one whose files are not at hand is taken to be as large as the policy.

    Args:
        origins: by config key; that of the policy is `policy` already.
    """
    from jobs.train.trainable import shape_of

    known = {origins["model"].directory.root: policy.shape}
    for origin in origins.values():
        if origin.directory.root not in known:
            known[origin.directory.root] = shape_of(origin.directory, origin.trust_remote_code)
    shapes = {key: known[origin.directory.root] for key, origin in origins.items()}
    return PpoModels(
        policy.shape, policy.trained, shapes.get("critic", policy.shape), shapes.get("reference", policy.shape),
        {role: shapes.get(key, policy.shape) for role, key in judges(stage).items()},
    )  # fmt: skip


@dataclass(frozen=True)
class PpoMemory:
    """What the ranks of a stage hold, and what comes to it on one machine without GPUs.

    Example:
        PpoMemory(layout, {"policy": RankMemory(...), "rollout": RankMemory(...)}, host_bytes=9.1e9)
    """

    layout: Layout
    ranks: Mapping[str, RankMemory]
    """Of one rank of each role."""
    host_bytes: float
    """Of all of them on one machine, with their processes and the copy that a checkpoint is written from."""


def memory_of(stage: PpoStage, models: PpoModels, prompt_tokens: int) -> PpoMemory:
    """As the stage's resources ask. On GPUs a cache whose size is left open is what is left, and not counted."""
    engines = stage.resources.rollout
    cache = (engines.kv_cache_on_cpu_gib if not engines.gpus_per_rank else engines.kv_cache_gib or 0.0) * 2**30
    layout = layout_of(stage)
    memory = role_memory(stage, models, layout, cache, prompt_tokens)
    host = sum(layout.ranks[role] * rank.total for role, rank in memory.items())
    host += (sum(layout.ranks.values()) - engines.ranks) * RANK_BASELINE_GIB * 2**30
    host += engines.ranks * ENGINE_BASELINE_GIB * 2**30
    trained = sum(held.trained for held in held_by(stage, models).values())
    return PpoMemory(layout, memory, host + trained * checkpoint_bytes(stage.optimizer))


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


def _check_vocabularies(name: str, stage: PpoStage, origins: Mapping[str, Origin]) -> None:
    """As jobs/ppo/inputs.py does when everything is trained. Raises DataError."""
    from jobs.corpus.schema import DataError
    from jobs.models import load_tokenizer

    files = {key: (origin.directory, origin.trust_remote_code, origin.added_tokens) for key, origin in origins.items()}
    called = {key: called for key, _, called in stage_inputs(stage)}
    for key, judge in files.items():
        if (
            judge != files["model"]
            and load_tokenizer(*judge).get_vocab() != load_tokenizer(*files["model"]).get_vocab()
        ):
            raise DataError(
                f"stages.{name}.{key}: {called[key]} has another vocabulary than {stage.model}, whose answers it would read as "
                "other words. Train it from the same base model."
            )


def _check_cache(name: str, stage: PpoStage, policy: "Trainable", longest: int) -> None:
    """Whether an engine can hold one prompt and its answer."""
    engines = stage.resources.rollout
    on_gpu = engines.gpus_per_rank > 0
    cache_gib = engines.kv_cache_gib if on_gpu else engines.kv_cache_on_cpu_gib
    block = CACHE_BLOCK_TOKENS["gpu" if on_gpu else "cpu"]
    tokens = math.ceil(longest / block) * block
    needed_gib = tokens * kv_bytes_per_token(policy.shape, stage.precision, max(1, engines.gpus_per_rank)) / 2**30
    if cache_gib is not None and cache_gib < needed_gib:
        raise DoesNotFit(
            f"stages.{name}.resources.rollout.kv_cache_gib ({cache_gib:g}) does not hold one prompt of {stage.shards} and its "
            f"answer ({longest} tokens): set {math.ceil(needed_gib * 1000) / 1000:g} or more, which is one answer at a time, or "
            f"lower max_new_tokens or the context of {stage.shards}"
        )


def _check_memory(name: str, stage: PpoStage, memory: PpoMemory) -> None:
    """Against the memory of this machine; of its GPUs, where the policy has some."""
    if stage.resources.policy.gpus_per_rank:
        free, where = _gpu_bytes(), "a GPU of this machine has"
        needed, what = max(rank.total for rank in memory.ranks.values()), "on the fullest GPU"
        more = "give policy and critic more ranks"
    else:
        free, where = psutil.virtual_memory().available, "free are"
        needed, what = memory.host_bytes, "for all its models"
        more = f"lower rollout.kv_cache_gib (now {stage.resources.rollout.kv_cache_on_cpu_gib:g})"
    if free is None or needed <= free:
        return
    each = ", ".join(
        f"{role} {memory.layout.ranks[role]} x {rank.total / 2**30:.2g}" for role, rank in memory.ranks.items()
    )
    raise DoesNotFit(
        f"stages.{name} needs about {needed / 2**30:.1f} GiB of memory {what}, {where} {free / 2**30:.1f} GiB (ranks x GiB: "
        f"{each}). {ways_to_fit(stage, more)}"
    )


def ways_to_fit(stage: PpoStage, *more: str) -> str:
    """What would make a stage smaller, the most helpful first; `more` of them at the end."""
    ways = []
    if stage.lora is None:
        ways += ["use `lora`", "set optimizer.state: 8bit (and critic_optimizer.state)"]
    if stage.needs_critic:
        ways.append("take estimator: grpo or rloo, which have no critic")
    if not stage.activation_checkpointing:
        ways.append("set activation_checkpointing: true")
    ways += [f"lower micro_batch_tokens (now {stage.micro_batch_tokens})", *more]
    return f"{ways[0][0].upper()}{'; '.join(ways)[1:]}; or take a smaller model."


def _gpu_bytes() -> int | None:
    """Memory of the first GPU here; None where there is none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
