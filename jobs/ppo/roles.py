"""Which roles a PPO stage has, and what each has to be given. Imports nothing heavy: `plan` asks it too."""

from cluster.placement import Role
from configs.schema.ppo_stage import PpoStage, RewardSource

POLICY, CRITIC, REFERENCE, GOLD, ROLLOUT = "policy", "critic", "reference", "gold", "rollout"


def roles_of(stage: PpoStage) -> dict[str, Role]:
    """What has to be reserved, by role."""
    resources = stage.resources
    wanted = {POLICY: resources.policy}
    if stage.needs_critic:
        wanted[CRITIC] = resources.critic
    if stage.loads_reference:
        wanted[REFERENCE] = resources.reference
    roles = {name: Role(found.ranks, found.threads_per_rank, found.gpus_per_rank) for name, found in wanted.items()}
    own = resources.reward
    for role, source in judges_of(stage).items():
        roles[role] = (
            Role(own.ranks, own.threads_per_rank, own.gpus_per_rank) if source.model is not None else Role(1, 1)
        )
    engines = resources.rollout
    roles[ROLLOUT] = Role(engines.ranks, engines.threads_per_rank, engines.gpus_per_rank)
    return roles


def judges_of(stage: PpoStage) -> dict[str, RewardSource]:
    """Who judges answers, by role: every source of rewards, and the gold reward of held-out answers."""
    judges = {reward_role(number): source for number, source in enumerate(stage.rewards)}
    if stage.heldout is not None and stage.heldout.gold is not None:
        judges[GOLD] = stage.heldout.gold
    return judges


def reward_role(number: int) -> str:
    return f"reward_{number}"
