"""The ranks of one role: actors that are started together, called together and ended together.

    placement slots --spawn--> ActorGroup --all(lambda rank: rank.verb.remote(...))--> a handle for every rank

A group lives and dies as one: torch.distributed cannot go on without a rank, so whoever loses one ends the others.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RuntimeEnvSetupError,
)

from cluster.placement import Placement
from configs.errors import RunFailed

LATE_S = 10.0
"""Ranks of a group have equal work; where some are so much later than others, something may have happened."""


LOST = (RayActorError, OutOfMemoryError, ActorUnschedulableError, RuntimeEnvSetupError, ObjectLostError)
"""How Ray says that an actor is lost, or with its host what it has returned."""


class GroupTimeout(RunFailed):
    """Some rank has not answered in time; the message names it."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of a group meet.

    Example:
        Rendezvous(host="10.0.0.3", port=41233, rank=1, ranks=2)
    """

    host: str
    port: int
    rank: int
    ranks: int


@dataclass(frozen=True)
class ActorGroup:
    """Actors in the order of their ranks."""

    role: str
    ranks: tuple[Any, ...]
    hosts: tuple[str, ...]
    """Addresses, by rank."""

    def all(self, call: Callable[[Any], Any]) -> list[Any]:
        """Calls every rank, which all then work at once; the handles of what they return, by rank."""
        return [call(rank) for rank in self.ranks]

    def name_of(self, rank: int) -> str:
        """Example: policy rank 1 on 10.0.0.3"""
        return f"{self.role}{f' rank {rank}' if len(self.ranks) > 1 else ''} on {self.hosts[rank]}"

    def end(self) -> None:
        """Ends all ranks at once; their memory is free when this returns or soon after."""
        for rank in self.ranks:
            ray.kill(rank, no_restart=True)


def spawn(role: str, actor: Any, placement: Placement, environment: dict[str, str], *arguments: Any) -> ActorGroup:
    """Starts `actor(*arguments)` in every slot of a role and returns before they are up.

    Args:
        actor: an actor class (`ray.remote`).
        environment: variables of their processes; never a secret, Ray shows them.
    """
    runtime_env = {"env_vars": environment} if environment else None
    return ActorGroup(
        role,
        tuple(
            actor.options(**placement.options(role, rank), runtime_env=runtime_env).remote(*arguments)
            for rank in range(len(placement.slots[role]))
        ),
        tuple(placement.hosts(role)),
    )


def meeting_point() -> tuple[str, int]:
    """Called on rank 0: an address of its node that other nodes reach, and a port that is free now."""
    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        return host, free.getsockname()[1]


Calls = Sequence[tuple[ActorGroup, Sequence[Any]]]
"""Who was asked, and the handles of the answers: one of every rank, and again one of every rank."""


def await_all(calls: Calls, timeout_s: float, what: str) -> None:
    """Returns when all ranks are done; what they return stays where it is, and what they have raised is told by the handles.

    Raises:
        GroupTimeout, LOST, RayTaskError: as `gather`, where some rank keeps the others waiting.
    """
    waiting, deadline = [handle for _, asked in calls for handle in asked], time.monotonic() + timeout_s
    while waiting:
        left_s = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(left_s, LATE_S), fetch_local=False)
        if waiting:
            ray.get(ready)  # has one of them raised, so that the others wait in vain?
            if left_s <= LATE_S:
                raise GroupTimeout(f"{what}: {_who_is_late(calls, timeout_s)}")


def gather(calls: Calls, timeout_s: float, what: str, needs: Calls = ()) -> list[Any]:
    """What all ranks return, in the order of the calls. For numbers and handles: tensors stay where they are.

    Args:
        needs: what those who are called wait for themselves; named where it is late, and not fetched.

    Raises:
        GroupTimeout: naming the ranks that have not answered.
        LOST: a rank is lost.  RayTaskError: a rank has raised.
    """
    handles = [handle for _, asked in calls for handle in asked]
    waiting, deadline = list(handles), time.monotonic() + timeout_s
    while waiting:
        left_s = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left_s, fetch_local=False)
        if not ready:
            raise GroupTimeout(f"{what}: {_who_is_late([*needs, *calls], timeout_s)}")
        if waiting:  # all that are ready by now: a wait for each would cost the driver the square of their number
            others, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
            ready += others
        ray.get(ready)  # at once: where one rank has raised, the others wait for it in vain
    return ray.get(list(handles))


def _who_is_late(calls: Calls, timeout_s: float) -> str:
    """The ranks of the first group that owes an answer; who was called after it may only be waiting for it."""
    late: list[tuple[ActorGroup, list[int]]] = []
    for group, asked in calls:
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0, fetch_local=False) if asked else ([], [])
        owed = sorted({number % len(group.ranks) for number, handle in enumerate(asked) if handle not in set(ready)})
        late += [(group, owed)] if owed else []
    if not late:
        return f"there was no answer for {timeout_s:g} s"  # but while we looked whose
    (first, ranks), *others = late
    waiting = ", ".join(dict.fromkeys(group.role for group, _ in others if group is not first))
    named = ", ".join(first.name_of(rank) for rank in ranks)
    return f"{named} has not answered for {timeout_s:g} s{f'; {waiting} may be waiting for it' if waiting else ''}"
