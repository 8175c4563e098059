"""Do all nodes of a joined cluster see the same store? Asked before the first stage, with one small file.

    driver: writes a probe --task pinned on each node with CPUs--> read back -> removed

A directory that only the driver has would let every node write into a disk of its own, and the run would end hours later with
files that nobody finds. Credentials do not travel, so the same question finds a node without them.
"""

import uuid
from typing import Any

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.storage import Patience, Store, read_probe
from configs.errors import Unreachable

ANSWER_TIMEOUT_S = 120.0
"""A node starts a worker and imports this checkout first; a busy one takes a minute."""


class StoreNotShared(Unreachable):
    """Some node does not see what the driver wrote."""


def require_shared_store(store: Store) -> None:
    """Raises StoreNotShared naming the nodes that do not see the store, and why. Needs a connected Ray."""
    probe, written = f"probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    opened = Store(store.root, Patience.PROBE)
    opened.write(probe, written.encode())
    look: Any = ray.remote(num_cpus=0)(_problem)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            opened, probe, written
        ): f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in nodes
    }
    try:
        ready, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
        if silent:
            late = ", ".join(asked[question] for question in silent)
            raise StoreNotShared(f"no answer within {ANSWER_TIMEOUT_S:.0f} s from {late}: `ray status` says why")
        answers = {asked[question]: _answer(question) for question in ready}
    finally:
        opened.remove(probe)
    blind = [f"  {node}: {problem}" for node, problem in answers.items() if problem is not None]
    if blind:
        remedy = (
            "Give every node its own AWS_* credentials and endpoint, then start Ray on it again."
            if store.is_s3
            else "Set `store` to s3://BUCKET/PREFIX, or to a directory that all nodes mount."
        )
        raise StoreNotShared(
            f"{len(blind)} of {len(answers)} nodes do not see the store {store.root}:\n"
            + "\n".join(blind[:5])
            + f"\n{remedy}"
        )


def _answer(question: Any) -> str | None:
    """What a node said; None also where it is lost by now: it will write nothing any more."""
    try:
        return ray.get(question)
    except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
        return None


def _problem(store: Store, probe: str, written: str) -> str | None:
    """What a node meets where it looks for the driver's file; None where it finds it."""
    try:
        found = read_probe(store, probe).decode()
    except FileNotFoundError:
        return "what the driver wrote is not there"
    except Unreachable as error:
        return str(error)
    return None if found == written else "another file is there"
