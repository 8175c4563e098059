"""Weights from GPU to GPU by vLLM's own trainer engines, nccl (other GPUs) and ipc (the same ones). Not run: no GPU here.

    Learner --LearnerSource--> vLLM's trainer engine --nccl | CUDA IPC--> vLLM's worker
                                       \\--SamplerClient--> RolloutEngine's verbs: manifest, state, probe as with buckets

Bytes are not hashed on this road; names, types, shapes and versions are, and the probe sees what is computed with them. Every
rank of the policy calls `send_to`. Unlike on a CPU, the learner's process imports vLLM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed.weight_transfer import ParamMeta, WeightSource, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import TrainerInitInfo
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from cluster.group import meeting_point
from cluster.weights import Manifest
from configs.schema.ppo_resources import PpoResources
from jobs.ppo.offer import Synced
from jobs.ppo.probe import Probe, ProbeReading
from jobs.train.broadcast import whole_tensors
from jobs.train.export import is_first_rank
from jobs.train.learner import Learner


class SamplerVerbs(Protocol):
    """RolloutEngine, or the handle of an actor around it that waits for the answers."""

    def init_weight_transfer(self, init_info: dict[str, Any]) -> None: ...
    def start_weight_update(self, manifest: Manifest) -> None: ...
    def receive_weights(self, update_info: dict[str, Any]) -> None: ...
    def finish_weight_update(self, digests: tuple[str, ...], probe: Probe | None) -> ProbeReading | None: ...


class LearnerSource(WeightSource):
    """A Learner's weights as vLLM's trainer engines ask for them: whole tensors on a GPU, in lockstep on all ranks."""

    def __init__(self, learner: Learner, manifest: Manifest, everywhere: bool) -> None:
        """Args:
        everywhere: every rank gets the whole tensor, which ipc needs, as each hands it to the worker on its own GPU.
        """
        self.learner, self.manifest, self.everywhere = learner, manifest, everywhere

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(place.name, place.dtype, place.shape) for bucket in self.manifest.buckets for place in bucket]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        device = self.learner.device
        places = {place.name: place for bucket in self.manifest.buckets for place in bucket}
        for name, whole in whole_tensors(self.learner, list(places.values())):
            on_gpu = torch.empty(places[name].shape, dtype=places[name].dtype, device=device)
            if whole is not None:
                on_gpu.copy_(whole)
            if self.everywhere:
                dist.broadcast(on_gpu, src=0)
            yield name, on_gpu


class SamplerClient:
    """vLLM's control protocol (VLLMWeightSyncClient) in front of a sampler's verbs."""

    def __init__(self, sampler: SamplerVerbs, manifest: Manifest, probe: Probe | None) -> None:
        self.sampler, self.manifest, self.probe = sampler, manifest, probe
        self.reading: ProbeReading | None = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.sampler.init_weight_transfer(init_info)

    def start_weight_update(self) -> None:
        self.sampler.start_weight_update(self.manifest)

    def update_weights(self, update_info: Any) -> None:
        self.sampler.receive_weights(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The version is the manifest's."""
        self.reading = self.sampler.finish_weight_update((), self.probe)


@dataclass(frozen=True)
class RemoteSampler:
    """The verbs of a sampler's actor, each waited for."""

    actor: Any
    timeout_s: float

    def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        self._wait(self.actor.init_weight_transfer.remote(init_info))

    def start_weight_update(self, manifest: Manifest) -> None:
        self._wait(self.actor.start_weight_update.remote(manifest))

    def receive_weights(self, update_info: dict[str, Any]) -> None:
        self._wait(self.actor.receive_weights.remote(update_info))

    def finish_weight_update(self, digests: tuple[str, ...], probe: Probe | None) -> ProbeReading | None:
        return self._wait(self.actor.finish_weight_update.remote(digests, probe))

    def _wait(self, handle: Any) -> Any:
        return ray.get(handle, timeout=self.timeout_s)


def send_to(
    actors: Sequence[Any], learner: Learner, manifest: Manifest, probe: Probe | None, resources: PpoResources
) -> list[Synced] | None:
    """The weights to one sampler after the other; on rank 0 what each says. Collective over the ranks of the policy."""
    rank, said = dist.get_rank(), []
    for actor in actors:
        if resources.transfer == "ipc":
            route: TrainerInitInfo = IPCTrainerInitInfo(rank=rank)
        else:
            host, port = meeting_point()
            route = NCCLTrainerInitInfo(host, port, 1 + resources.rollout.gpus_per_rank, rank=rank)
        reading = send_on_gpus(learner, manifest, RemoteSampler(actor, resources.step_timeout_s), probe, route)
        said.append(Synced.of(reading))
    return said if is_first_rank() else None


def send_on_gpus(
    learner: Learner, manifest: Manifest, sampler: SamplerVerbs, probe: Probe | None, route: TrainerInitInfo
) -> ProbeReading | None:
    """One sync; the probe's reading on rank 0. Collective.

    Args:
        route: NCCLTrainerInitInfo (address, port, 1 + workers) or IPCTrainerInitInfo, with this process's rank.

    Raises:
        WeightSyncFailed, EngineNotReady: as RolloutEngine's verbs.
    """
    client = SamplerClient(sampler, manifest, probe)
    source = LearnerSource(learner, manifest, everywhere=route.backend == "ipc")
    # A connection for each sync: a sampler that was restarted in between would wait for the old one for ever.
    trainer = WeightTransferTrainerFactory.trainer_init(route, client=client, source=source)
    try:
        trainer.send_weights()
    finally:
        trainer.shutdown()
    return client.reading if is_first_rank() else None
