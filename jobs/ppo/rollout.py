"""A policy that samples: answers as they finish, and weights that fail closed.

    EngineSpec --mirror, start, canary--> READY
    READY: generate(requests) -> the answers of a prompt as soon as all of them are finished, while the rest generates
    READY --start_weight_update(manifest)--> UPDATING --update_weights(bucket)*, finish_weight_update(digests, probe)--> READY
    whatever fails on the way --> DIRTY --reload()--> READY, with the weights of the model directory and its version

One thread: nothing is sampled but inside `generate`, so pausing is not asking for the next answers. On a CPU no learner lives
in the same process: vLLM replaces torch.set_num_threads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from cluster.weights import Bucket, Manifest, Receipt, WeightSyncFailed, WireTensor, check_manifest
from configs.errors import RunFailed
from jobs.ppo.canary import check_canary
from jobs.ppo.probe import Probe, ProbeReading, check_probe, check_tokens, read_probe
from jobs.ppo.vllm_engine import EngineSpec, Finished, VllmEngine
from jobs.records import PromptRequest, Rollout, Sampling


class State(Enum):
    READY = "ready"
    UPDATING = "updating"
    DIRTY = "dirty"


class EngineNotReady(RunFailed, RuntimeError):
    """A sampler was asked for what its state forbids: its weights are not whole, or it is in the middle of something."""


class RolloutEngine:
    """One engine with the weights of one version of the policy."""

    def __init__(self, spec: EngineSpec, version: int = 0) -> None:
        """Starts, and checks that updates reach every kind of tensor.

        Args:
            version: of the weights in the model directory.

        Raises:
            WeightSyncFailed: the canary; this machine's vLLM cannot be updated.
        """
        self.spec = spec
        self.state, self.reason = State.READY, ""
        self.version = self._version_on_disk = version
        self._receipt: Receipt | None = None
        self._generating = self._asleep = False
        self._engine = VllmEngine(spec)
        if spec.transfer == "buckets":
            self._engine.connect({})
        self._check_canary()

    # Sampling

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling) -> Iterator[list[Rollout]]:
        """The answers to each prompt, in the order of its seeds, as soon as the last of them is finished.

        What is sampled is a function of weights, requests and their order, and threads: all requests are queued before the
        first pass, and no prefix is remembered from before. Closing the iterator drops what is not finished; then the engine
        may be asked again.

        Raises:
            EngineNotReady: the weights are not whole, or another `generate` is not at its end.
            ValueError: a request that can never be answered: too long, empty, or an id that occurs twice.
        """
        self._require_ready()
        _check_requests(requests, sampling, self.spec.max_model_len, self._engine.vocabulary)
        self._engine.forget_prefixes()
        self._generating = True
        try:
            missing: dict[int, int] = {}
            answers: dict[int, list[Finished | None]] = {}
            for number, request in enumerate(requests):
                missing[number], answers[number] = len(request.seeds), [None] * len(request.seeds)
                for sample, seed in enumerate(request.seeds):
                    self._engine.add(f"{number}/{sample}", request.prompt_ids, seed, sampling)
            while self._engine.waiting:
                for answer in self._step():
                    number, sample = map(int, answer.request.split("/"))
                    answers[number][sample] = answer
                    missing[number] -= 1
                    if missing[number] == 0:
                        yield _rollouts(requests[number], answers.pop(number), self.version)
            if answers:
                raise EngineNotReady(
                    f"{len(answers)} prompts were dropped: the sampler was reloaded while it generated"
                )
        finally:
            self._engine.abort()
            self._generating = False

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """fp32 (N,) log-probabilities at temperature 1 of every token but the first of its sequence. Raises EngineNotReady."""
        self._require_ready()
        return self._engine.logprobs(sequences)

    # Weights

    def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """The handshake with vLLM's trainer side, for nccl and ipc."""
        self._require_ready()
        self._engine.connect(init_info)

    def start_weight_update(self, manifest: Manifest) -> None:
        """From here on nothing is sampled until the update is finished.

        Raises:
            EngineNotReady: dirty, updating, or generating.
            WeightSyncFailed: a version that is not newer, or tensors of another model. Nothing was touched: the engine goes on
                with the version it has.
        """
        self._require_ready()
        check_manifest(manifest, self.version, self._engine.shapes, self.spec.torch_dtype)
        with self._dirty_where_it_fails("starting a weight update"):
            self.state, self._receipt = State.UPDATING, Receipt(manifest)
            self._engine.start_update()

    def update_weights(self, bucket: Bucket) -> None:
        """Loads one bucket of the announced ones. Raises EngineNotReady, WeightSyncFailed."""
        receipt = self._open_receipt()
        with self._dirty_where_it_fails(f"bucket {bucket.index} of version {receipt.manifest.version}"):
            receipt.take(bucket)
            self._engine.update_bucket(receipt.manifest, bucket)

    def receive_weights(self, update_info: dict[str, Any]) -> None:
        """What vLLM's trainer side announces while it sends everything (nccl), or its handles (ipc); not run on GPUs.

        Names, types and shapes must be those of the manifest. Bytes are not hashed here: probe and canary judge them.
        """
        receipt = self._open_receipt()
        with self._dirty_where_it_fails(f"weights of version {receipt.manifest.version}"):
            said = zip(update_info["names"], update_info["dtype_names"], update_info["shapes"], strict=True)
            receipt.take_tensors([WireTensor(name, getattr(torch, dtype), tuple(shape)) for name, dtype, shape in said])
            self._engine.update(update_info)

    def finish_weight_update(self, digests: Sequence[str], probe: Probe | None) -> ProbeReading | None:
        """Makes the announced version the current one, if everything came and the sampler computes with it.

        Args:
            digests: of all buckets, as the sender lists them; empty for nccl and ipc.
            probe: None where this sync goes without: then nobody has seen the new weights at work.

        Raises:
            EngineNotReady, WeightSyncFailed.
        """
        receipt = self._open_receipt()
        version = receipt.manifest.version
        with self._dirty_where_it_fails(f"finishing version {version}"):
            receipt.close(digests)
            _require_all(self._engine.finish_update(), version)
            reading = None
            if probe is not None:
                check_tokens(probe.sequences, probe.new_logprobs_N)
                reading = read_probe(self._engine.logprobs(probe.sequences), probe)
                check_probe(reading, self.spec.torch_dtype)
        self.version, self.state, self._receipt = version, State.READY, None
        return reading

    def reload(self) -> None:
        """Back to the model directory, its version, and READY, after the canary; whatever state the engine was in.

        Raises:
            WeightSyncFailed: it cannot be repaired; end this process.
        """
        with self._dirty_where_it_fails("reloading the model directory"):
            self.state, self._receipt = State.UPDATING, None
            self._engine.abort()
            self._engine.abandon_update()
            _require_all(self._engine.load([*self._engine.shapes], {}), self._version_on_disk)
            self._check_canary()
        self.version, self.state, self.reason = self._version_on_disk, State.READY, ""

    def sleep(self) -> None:
        """Leaves the GPU to those who share it, where `spec.sleeps`; does nothing elsewhere, nor a second time."""
        if self.spec.sleeps and not self._asleep:
            self._engine.sleep()
            self._asleep = True

    def wake(self) -> None:
        """Must come before anything else that the engine is asked to do."""
        if self._asleep:
            self._engine.wake()
            self._asleep = False

    def close(self) -> None:
        """Ends the engine."""
        self._engine.close()

    def _step(self) -> list[Finished]:
        """A pass of the engine. What vLLM raises in it leaves its books in no known state."""
        try:
            return self._engine.step()
        except BaseException as error:
            self.state, self.reason = State.DIRTY, f"sampling failed: {type(error).__name__}: {error}"
            raise

    def _check_canary(self) -> None:
        with self._dirty_where_it_fails("the canary"):
            check_canary(
                self._engine.shapes,
                self._engine.read,
                lambda tensors: self._engine.load([*tensors], tensors),
                lambda tokens: self._engine.logprobs([tokens]),
            )

    def _require_ready(self) -> None:
        if self.state is not State.READY:
            raise EngineNotReady(f"this sampler is {self.state.value}{': ' if self.reason else ''}{self.reason}")
        if self._generating:
            raise EngineNotReady("this sampler is generating: take all its answers, or close the iterator, first")

    def _open_receipt(self) -> Receipt:
        if self.state is State.DIRTY:
            self._require_ready()
        if self._receipt is None:
            raise EngineNotReady("no weight update was started")
        return self._receipt

    @contextmanager
    def _dirty_where_it_fails(self, doing: str) -> Iterator[None]:
        """Whatever is raised inside, the weights are not to be sampled with any more."""
        try:
            yield
        except BaseException as error:
            self.state, self.reason, self._receipt = State.DIRTY, f"{doing} failed: {error}", None
            if isinstance(error, RunFailed) or not isinstance(error, Exception):
                raise
            raise WeightSyncFailed(f"{doing}: {type(error).__name__}: {error}") from error


def _require_all(left_over: list[str], version: int) -> None:
    if left_over:
        some = ", ".join(left_over[:3])
        raise WeightSyncFailed(f"version {version} left {len(left_over)} parameters as they were: {some}")


def _rollouts(request: PromptRequest, answers: list[Finished | None], version: int) -> list[Rollout]:
    rollouts: list[Rollout] = []
    for sample, answer in enumerate(answers):
        assert answer is not None, (request.prompt_id, sample)
        assert len(answer.answer_ids) == len(answer.logprobs), (request.prompt_id, sample)
        rollouts.append(
            Rollout(
                request.prompt_id, sample, request.prompt_ids, answer.answer_ids, answer.logprobs, answer.ended, version
            )
        )
    return rollouts


def _check_requests(requests: Sequence[PromptRequest], sampling: Sampling, max_model_len: int, vocabulary: int) -> None:
    ids = {request.prompt_id for request in requests}
    if len(ids) < len(requests):
        raise ValueError(f"{len(requests)} requests have {len(ids)} prompt ids; every prompt needs its own")
    if not sampling.temperature > 0:
        raise ValueError(f"temperature {sampling.temperature}: greedy answers have no log-probability to learn from")
    for request in requests:
        tokens = len(request.prompt_ids) + sampling.max_new_tokens
        if not request.prompt_ids or not request.seeds or tokens > max_model_len:
            raise ValueError(
                f"prompt {request.prompt_id} has {len(request.prompt_ids)} tokens and {len(request.seeds)} seeds; with up to "
                f"{sampling.max_new_tokens} new tokens it must fit in max_model_len = {max_model_len}"
            )
        if (
            not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary
        ):  # vLLM would read what pads the rows
            raise ValueError(
                f"prompt {request.prompt_id} has token {max(request.prompt_ids)}, the model has {vocabulary}: was it rendered "
                "with another model's tokenizer?"
            )
