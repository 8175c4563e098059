"""Where the roles of a job run: the only place that counts CPUs and GPUs for actors.

    roles (ranks x CPUs, GPUs, ...) --bundles_of--> bundles --reserve, all or none--> Placement --slots--> actor options

Everything is reserved before anything is loaded: a job that does not fit says so within `timeout_s` and not after an hour, and
two jobs never hold half of what each needs.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.errors import DoesNotFit

Sharing = Literal["separate", "colocated"]
Strategy = Literal["PACK", "SPREAD", "STRICT_SPREAD"]
Resources = dict[str, float]
FRACTION_DIGITS = 4
"""Ray counts resources in ten-thousandths."""


@dataclass(frozen=True)
class Role:
    """What one kind of actor needs.

    Example:
        Role(ranks=2, cpus=2, gpus=1)
    """

    ranks: int
    cpus: float
    gpus: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)
    """What nodes offer under names of their own (`ray start --resources`)."""


@dataclass(frozen=True)
class Slot:
    """Where one rank of a role runs, and its share of the bundle there; what is custom only chooses the node."""

    bundle: int
    cpus: float
    gpus: float


def bundles_of(roles: Mapping[str, Role], sharing: Sharing) -> tuple[list[Resources], dict[str, list[Slot]]]:
    """The bundles to ask for, and the slots of every role in the order of its ranks.

    separate: a bundle for every rank of every role. colocated: rank i of every role shares bundle i, which is as large as the
    largest of them asks; each has an equal part of it on paper, and they take turns.
    """
    if sharing == "separate":
        bundles: list[Resources] = []
        slots: dict[str, list[Slot]] = {}
        for name, role in roles.items():
            slots[name] = [Slot(len(bundles) + rank, role.cpus, role.gpus) for rank in range(role.ranks)]
            bundles += [_resources(role.cpus, role.gpus, role.custom)] * role.ranks
        return bundles, slots
    bundles, slots = [], {name: [] for name in roles}
    for number in range(max(role.ranks for role in roles.values())):
        here = {name: role for name, role in roles.items() if role.ranks > number}
        cpus, gpus = max(role.cpus for role in here.values()), max(role.gpus for role in here.values())
        on_gpu = sum(role.gpus > 0 for role in here.values())
        kinds = sorted({kind for role in here.values() for kind in role.custom})
        custom = {kind: max(role.custom.get(kind, 0.0) for role in here.values()) for kind in kinds}
        bundles.append(_resources(cpus, gpus, custom))
        for name, role in here.items():
            slots[name].append(Slot(number, _part(cpus, len(here)), _part(gpus, on_gpu) if role.gpus else 0.0))
    return bundles, slots


@dataclass(frozen=True)
class Placement:
    """Reserved bundles."""

    group: PlacementGroup
    slots: dict[str, list[Slot]]

    def options(self, role: str, rank: int) -> dict[str, Any]:
        """What `actor.options(...)` takes so that the actor runs in its slot."""
        slot = self.slots[role][rank]
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=slot.bundle)
        return {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "scheduling_strategy": strategy}

    def hosts(self, role: str) -> list[str]:
        """The addresses of the nodes where the ranks of a role run."""
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        node_of = placement_group_table(self.group)["bundles_to_node_id"]
        return [addresses.get(node_of[slot.bundle], "a lost node") for slot in self.slots[role]]

    def is_whole(self, timeout_s: float) -> bool:
        """Whether all bundles have a node; Ray looks for others when one is lost, and `timeout_s` is how long that may take."""
        deadline = time.monotonic() + timeout_s
        while not self.group.wait(1):  # whole seconds, in which no signal is heard
            if time.monotonic() > deadline:
                return False
        return True


class NoRoom(DoesNotFit):
    """The cluster has no room for all roles now; it may grow."""


@contextmanager
def reserve(roles: Mapping[str, Role], sharing: Sharing, strategy: Strategy, timeout_s: float) -> Iterator[Placement]:
    """Holds room for all ranks of all roles while the block runs.

    Args:
        timeout_s: how long a cluster may take to grow before it is given up.

    Raises:
        NoRoom: naming what is missing.
    """
    bundles, slots = bundles_of(roles, sharing)
    group = placement_group(bundles, strategy=strategy)
    try:
        began = time.monotonic()
        try:
            ray.get(group.ready(), timeout=timeout_s)
        except GetTimeoutError:
            raise NoRoom(
                f"no room for {describe_roles(roles)} ({sharing}, {strategy}) after {time.monotonic() - began:.0f} s: "
                f"{what_is_missing(bundles, strategy, _nodes())} Ask for less, set `placement: colocated`, or add nodes."
            ) from None
        yield Placement(group, slots)
    finally:
        remove_placement_group(group)


def describe_roles(roles: Mapping[str, Role]) -> str:
    """Example: policy 2 x (2 CPU, 1 GPU), rollout 1 x (1 CPU, 1 L4)"""
    words = []
    for name, role in roles.items():
        asked = ", ".join(
            f"{amount:g} {kind}" for kind, amount in _resources(role.cpus, role.gpus, role.custom).items()
        )
        words.append(f"{name} {role.ranks} x ({asked})")
    return ", ".join(words)


def what_is_missing(bundles: list[Resources], strategy: Strategy, nodes: list[Resources]) -> str:
    """The first reason that no node or all nodes together cannot hold the bundles; nodes as they are when empty."""
    for kind in sorted({kind for bundle in bundles for kind in bundle}, reverse=True):  # GPU before CPU
        wanted, there = sum(bundle.get(kind, 0) for bundle in bundles), sum(node.get(kind, 0) for node in nodes)
        if wanted > there:
            return f"{wanted:g} {kind} are needed, the cluster has {there:g}."
        largest = max(bundle.get(kind, 0) for bundle in bundles)
        if largest > max((node.get(kind, 0) for node in nodes), default=0):
            return f"one rank needs {largest:g} {kind}, no node has so many."
    if strategy == "STRICT_SPREAD" and len(bundles) > len(nodes):
        return f"{len(bundles)} ranks want a node each, the cluster has {len(nodes)}."
    return "there is enough of everything, but other work holds it or it is spread over nodes in parts too small."


def _nodes() -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _resources(cpus: float, gpus: float, custom: Mapping[str, float]) -> Resources:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **custom}


def _part(whole: float, parts: int) -> float:
    """Rounded down: all parts together must not exceed the whole."""
    return int(whole / parts * 10**FRACTION_DIGITS) / 10**FRACTION_DIGITS
