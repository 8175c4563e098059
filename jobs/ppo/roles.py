"""Which roles a PPO stage has, and what each has to be given. Imports nothing heavy: `plan` asks it too."""

from cluster.placement import Role
from configs.schema.ppo_stage import PpoStage

POLICY, CRITIC, REFERENCE, REWARD, ROLLOUT = "policy", "critic", "reference", "reward", "rollout"


def roles_of(stage: PpoStage) -> dict[str, Role]:
    """What has to be reserved, by role."""
    resources = stage.resources
    wanted = {POLICY: resources.policy}
    if stage.needs_critic:
        wanted[CRITIC] = resources.critic
    if stage.needs_reference:
        wanted[REFERENCE] = resources.reference
    roles = {name: Role(found.ranks, found.threads_per_rank, found.gpus_per_rank) for name, found in wanted.items()}
    for number, source in enumerate(stage.rewards):
        own = resources.reward
        roles[reward_role(number)] = (
            Role(own.ranks, own.threads_per_rank, own.gpus_per_rank) if source.model is not None else Role(1, 1)
        )
    engines = resources.rollout
    roles[ROLLOUT] = Role(engines.ranks, engines.threads_per_rank, engines.gpus_per_rank)
    return roles


def reward_role(number: int) -> str:
    return f"{REWARD}_{number}"
