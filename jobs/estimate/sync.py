"""Seconds that new weights take from the policy to all samplers, by the two roads there are.

buckets (jobs/ppo/transfer.py): gather on rank 0 -> its host -> pack, hash, object store -> every node -> check -> GPU
nccl (jobs/ppo/gpu_sync.py), to one engine after the other: gather on rank 0 -> its host -> its GPU -> broadcast
"""

import math
from dataclasses import dataclass

from jobs.estimate.time import Machine


@dataclass(frozen=True)
class Sync:
    """One sync, in its legs, which follow each other.

    Example:
        Sync(bytes=13.5e9, legs={"gathering": 0.03, "pack and store": 13.0, "to 1 other node": 1.1, "check and load": 1.6})
    """

    bytes: float
    """That every sampler gets."""
    legs: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.legs.values())


def over_buckets(sent_bytes: float, policy_ranks: int, engines: int, tensor_parallel: int, machine: Machine) -> Sync:
    """Rank 0 does all of it alone, then the nodes of the samplers fetch one after the other and load at the same time."""
    assumed, cluster = machine.assumed, machine.cluster
    to_host = sent_bytes / (cluster.gpu.host_bytes_per_s * assumed.link_share)
    nodes = _other_nodes(policy_ranks, engines * tensor_parallel, machine)
    legs = {
        "gathering": _gather_s(sent_bytes, policy_ranks, machine) + to_host,
        "packing into the object store": sent_bytes / assumed.pack_bytes_per_s,
        f"to {nodes} other nodes": nodes * sent_bytes / (cluster.host_network_bytes_per_s * assumed.link_share),
        "checking and loading": sent_bytes / assumed.open_bytes_per_s + to_host,
    }
    return Sync(sent_bytes, {leg: seconds for leg, seconds in legs.items() if seconds})


def over_nccl(sent_bytes: float, policy_ranks: int, engines: int, tensor_parallel: int, machine: Machine) -> Sync:
    """Whole tensors pass through the host of rank 0, as they do in gpu_sync.py, and are broadcast from its GPU, for every engine
    anew. ipc, on shared GPUs, takes the same way.
    """
    assumed, cluster = machine.assumed, machine.cluster
    to_host = sent_bytes / (cluster.gpu.host_bytes_per_s * assumed.link_share)
    one_node = not _other_nodes(policy_ranks, engines * tensor_parallel, machine)
    links = cluster.gpu.link_bytes_per_s if one_node else cluster.network_bytes_per_s
    return Sync(
        sent_bytes,
        {
            "gathering": engines * (_gather_s(sent_bytes, policy_ranks, machine) + 2 * to_host),
            "broadcast": engines * sent_bytes / (links * assumed.link_share),
        },
    )


def _gather_s(sent_bytes: float, ranks: int, machine: Machine) -> float:
    """All ranks send their rows to one GPU."""
    cluster = machine.cluster
    links = cluster.gpu.link_bytes_per_s if ranks <= cluster.gpus_per_node else cluster.network_bytes_per_s
    return sent_bytes * (ranks - 1) / ranks / (links * machine.assumed.link_share)


def _other_nodes(policy_ranks: int, sampling_gpus: int, machine: Machine) -> int:
    """Nodes of the samplers beside that of rank 0: roles are packed one after the other, samplers last."""
    per_node = machine.cluster.gpus_per_node
    if machine.cluster.gpus <= per_node:
        return 0
    free_beside = max(0, per_node - policy_ranks)
    return math.ceil(max(0, sampling_gpus - free_beside) / per_node)
