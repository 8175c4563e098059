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

from cluster.placement import Placement
from configs.errors import RunFailed

LATE_S = 10.0
"""Ranks of a group have equal work; where some are so much later than others, something may have happened."""


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

    def all(self, call: Callable[[Any], Any]) -> list[Any]:
        """Calls every rank, which all then work at once; the handles of what they return, by rank."""
        return [call(rank) for rank in self.ranks]

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
    )


def meeting_point() -> tuple[str, int]:
    """Called on rank 0: an address of its node that other nodes reach, and a port that is free now."""
    host = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        return host, free.getsockname()[1]


def await_all(handles: Sequence[Any], timeout_s: float, what: str) -> None:
    """Returns when all ranks are done; what they return stays where it is, and what they have raised is told by the handles.

    Raises:
        GroupTimeout, RayActorError, RayTaskError: as `gather`, where some rank keeps the others waiting.
    """
    waiting, deadline = list(handles), time.monotonic() + timeout_s
    while waiting:
        left_s = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(left_s, LATE_S), fetch_local=False)
        if waiting:
            ray.get(ready)  # has one of them raised, so that the others wait in vain?
            if left_s <= LATE_S:
                raise _timeout(handles, waiting, timeout_s, what)


def gather(handles: Sequence[Any], timeout_s: float, what: str) -> list[Any]:
    """What all ranks return. For numbers and handles: tensors stay where they are.

    Raises:
        GroupTimeout: naming the ranks that have not answered.
        RayActorError: a rank is lost.  RayTaskError: a rank has raised.
    """
    waiting, deadline = list(handles), time.monotonic() + timeout_s
    while waiting:
        left_s = max(0.0, deadline - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left_s, fetch_local=False)
        if not ready:
            raise _timeout(handles, waiting, timeout_s, what)
        if waiting:  # all that are ready by now: a wait for each would cost the driver the square of their number
            others, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
            ready += others
        ray.get(ready)  # at once: where one rank has raised, the others wait for it in vain
    return ray.get(list(handles))


def _timeout(handles: Sequence[Any], waiting: Sequence[Any], timeout_s: float, what: str) -> GroupTimeout:
    late = ", ".join(str(list(handles).index(handle)) for handle in waiting)
    return GroupTimeout(f"{what}: rank {late} of {len(handles)} has not answered for {timeout_s:g} s")
