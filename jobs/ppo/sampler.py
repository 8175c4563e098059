"""The actor around a rollout engine: units of answers out, weights in.

units of prompts --generate, streamed--> list[Rollout], a unit as soon as all its answers are there
Announced (manifest, handles of buckets, probe) --sync--> the next version, or the failure that says why not
"""

from collections.abc import Iterator, Sequence
from typing import Any

import ray

from cluster import kill_points
from cluster.weights import FETCH_TIMEOUT_S, Manifest
from jobs.ppo.job import PpoJob
from jobs.ppo.offer import Announced, Synced
from jobs.ppo.probe import Probe, ProbeReading
from jobs.ppo.prompts import Units
from jobs.ppo.ranks import Clock
from jobs.ppo.rollout import RolloutEngine
from jobs.ppo.vllm_engine import EngineSpec
from jobs.records import Rollout

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


class Sampler:
    """One engine; it knows no other."""

    def __init__(self, job: PpoJob) -> None:
        self._job = job
        self._clock = Clock()

    def start(self) -> None:
        """Starts vLLM with the weights of the policy's model directory, which are version 0."""
        stage, resources = self._job.stage, self._job.stage.resources
        engine, on_gpu = resources.rollout, resources.rollout.gpus_per_rank > 0
        self._engine = RolloutEngine(
            EngineSpec(
                self._job.policy, DTYPES[stage.precision], self._job.context + stage.max_new_tokens,  # pyright: ignore[reportArgumentType]
                engine.kv_cache_gib if on_gpu else engine.kv_cache_on_cpu_gib,
                engine.max_num_seqs, engine.threads_per_rank, "cuda" if on_gpu else "cpu",
                resources.transfer, max(1, engine.gpus_per_rank), on_gpu and resources.placement == "colocated",
                self._job.trust_remote_code,
            )
        )  # fmt: skip
        self._engine.sleep()

    def generate(self, units: Units) -> Iterator[list[Rollout]]:
        """The answers of each unit, in the order in which units are complete."""
        requests = [request for unit in units for request in unit]
        unit_of = {request.prompt_id: number for number, unit in enumerate(units) for request in unit}
        missing = [len(unit) for unit in units]
        answers: list[list[Rollout]] = [[] for _ in units]
        self._engine.wake()
        stream = self._engine.generate(requests, self._job.sampling)
        while True:
            with self._clock.working("sample"):
                of_prompt = next(stream, None)
            if of_prompt is None:
                self._engine.sleep()
                return
            number = unit_of[of_prompt[0].prompt_id]
            answers[number] += of_prompt
            missing[number] -= 1
            if missing[number] == 0:
                kill_points.reach("ppo_sampling")
                yield answers[number]
                answers[number] = []

    def sync(self, announced: Announced) -> Synced:
        """Takes new weights.

        Raises:
            WeightSyncFailed: they were not taken; nothing is sampled before `reload`.
        """
        with self._clock.working("sync"):
            self._engine.wake()
            probe: Any = ray.get(announced.probe[0], timeout=FETCH_TIMEOUT_S) if announced.probe else None
            self._engine.start_weight_update(announced.manifest)
            for bucket in announced.buckets:
                self._engine.update_weights(bucket)
                kill_points.reach("ppo_syncing")
            reading = self._engine.finish_weight_update([bucket.digest for bucket in announced.buckets], probe)
            self._engine.sleep()
        return Synced.of(reading)

    # The verbs of the engine, for weights that come from GPU to GPU (jobs/ppo/gpu_sync.py)

    def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        self._engine.wake()
        self._engine.init_weight_transfer(init_info)

    def start_weight_update(self, manifest: Manifest) -> None:
        self._engine.start_weight_update(manifest)

    def receive_weights(self, update_info: dict[str, Any]) -> None:
        self._engine.receive_weights(update_info)

    def finish_weight_update(self, digests: Sequence[str], probe: Probe | None) -> ProbeReading | None:
        reading = self._engine.finish_weight_update(digests, probe)
        self._engine.sleep()
        return reading

    def reload(self) -> None:
        """Back to the weights of the model directory, version 0. Raises WeightSyncFailed where that cannot be done."""
        self._engine.wake()
        self._engine.reload()
        self._engine.sleep()

    def busy_s(self) -> dict[str, float]:
        return self._clock.take()
