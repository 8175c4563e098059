"""Which roles a PPO stage has, and what each has to be given. Imports nothing heavy: `plan` asks it too."""

from cluster.placement import Role
from configs.schema.ppo_resources import EngineResources, RoleResources
from configs.schema.ppo_stage import PpoStage, RewardSource

POLICY, CRITIC, REFERENCE, REWARD, ROLLOUT = "policy", "critic", "reference", "reward", "rollout"
GOLD = "gold"


def roles_of(stage: PpoStage) -> dict[str, Role]:
    """What has to be reserved, by role."""
    resources = stage.resources
    wanted = {POLICY: resources.policy}
    if stage.needs_critic:
        wanted[CRITIC] = resources.critic
    if stage.loads_reference:
        wanted[REFERENCE] = resources.reference
    roles = {name: _role(found) for name, found in wanted.items()}
    for role, source in judges_of(stage).items():
        roles[role] = _role(resources.reward) if source.model is not None else Role(1, 1)
    roles[ROLLOUT] = _role(resources.rollout)
    return roles


def judges_of(stage: PpoStage) -> dict[str, RewardSource]:
    """Who judges answers, by role: every source of rewards, and the gold reward of held-out answers."""
    judges = {reward_role(number): source for number, source in enumerate(stage.rewards)}
    if stage.heldout is not None and stage.heldout.gold is not None:
        judges[GOLD] = stage.heldout.gold
    return judges


def _role(asked: RoleResources | EngineResources) -> Role:
    return Role(asked.ranks, asked.threads_per_rank, asked.gpus_per_rank, asked.custom_resources)


def reward_role(number: int) -> str:
    return f"{REWARD}_{number}"


def resources_key(role: str) -> str:
    """Where the stage's `resources` say what a role is given: those of all judges are in one place."""
    return REWARD if role == GOLD else role.partition("_")[0]


def gpus_per_rank(stage: PpoStage, role: str) -> float:
    """Of a role that has a model, as the stage's `resources` ask."""
    return getattr(stage.resources, resources_key(role)).gpus_per_rank
