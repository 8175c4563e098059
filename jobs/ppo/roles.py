"""Which roles a PPO stage has, and what each has to be given. Imports nothing heavy: `plan` asks it too."""

from cluster.placement import Role
from configs.schema.ppo_stage import EngineResources, PpoStage, RoleResources

POLICY, CRITIC, REFERENCE, REWARD, ROLLOUT = "policy", "critic", "reference", "reward", "rollout"


def roles_of(stage: PpoStage) -> dict[str, Role]:
    """What has to be reserved, by role."""
    resources = stage.resources
    wanted = {POLICY: resources.policy}
    if stage.needs_critic:
        wanted[CRITIC] = resources.critic
    if stage.needs_reference:
        wanted[REFERENCE] = resources.reference
    roles = {name: _role(found) for name, found in wanted.items()}
    for number, source in enumerate(stage.rewards):
        roles[reward_role(number)] = _role(resources.reward) if source.model is not None else Role(1, 1)
    roles[ROLLOUT] = _role(resources.rollout)
    return roles


def _role(asked: RoleResources | EngineResources) -> Role:
    return Role(asked.ranks, asked.threads_per_rank, asked.gpus_per_rank, asked.custom_resources)


def reward_role(number: int) -> str:
    return f"{REWARD}_{number}"
