"""vLLM inside this process, as a sampler needs it: requests in, finished answers out, weights over vLLM's own verbs.

    EngineSpec --start--> LLM (one worker, this thread)
    begin(requests) -> step() ... -> Finished        logprobs(sequences) -> log-probabilities of given text
    start_update -> update(bucket)* -> finish_update                        abandon

Nothing here knows versions or states; jobs/ppo/rollout.py does. CPU settings are those of design.md 7.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from cluster.mirror import mirror, model_content
from cluster.storage import Store, open_store
from cluster.weights import Bucket, Manifest, WireTensor, pack_bucket, plan_buckets
from jobs.records import Sampling
from jobs.train.weights import EMBEDDING, HEAD, StoredTensor, list_tensors, read_rows

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""vLLM's names of the types it computes in."""
IGNORED = re.compile(r"rotary_emb\.inv_freq$")
"""Buffers that old checkpoints carry; nobody loads them."""


@dataclass(frozen=True)
class EngineSpec:
    """What a sampler is made of.

    Example:
        EngineSpec(model=open_store("artifacts/sft-1f/model"), dtype="bfloat16", max_model_len=512, kv_cache_gib=1.0,
                   max_num_seqs=64, threads=2)
    """

    model: Store
    """Directory with config.json and *.safetensors; on S3 it is mirrored to this node's disk."""
    dtype: Literal["bfloat16", "float16", "float32"]
    max_model_len: int
    """Tokens of a prompt and its answer."""
    kv_cache_gib: float | None
    """None: what vLLM leaves of its GPUs."""
    max_num_seqs: int
    """Answers that are sampled at a time; the others wait."""
    threads: int
    """Of CPU kernels; the bits depend on it."""
    device: Literal["cpu", "cuda"] = "cpu"
    transfer: Literal["buckets", "nccl", "ipc"] = "buckets"
    """How weights come: as buckets (jobs/ppo/transfer.py), or by vLLM's own engines between GPUs, which were not run."""
    tensor_parallel: int = 1
    """GPUs of this engine. Not run on GPUs."""
    sleeps: bool = False
    """Whether it gives its GPU's memory to others between sampling (vLLM's sleep mode, level 1: weights wait in host memory)."""
    trust_remote_code: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class Finished:
    """One answer.

    Example:
        Finished(request="17/1", answer_ids=[7, 2], logprobs=[-0.41, -0.02], ended=True)
    """

    request: str
    answer_ids: list[int]
    logprobs: list[float]
    ended: bool
    """By an end token, not by length."""


class VllmEngine:
    """Owns the engine; one for each process, because vLLM keeps its distributed state in globals."""

    def __init__(self, spec: EngineSpec) -> None:
        """Mirrors the model and starts: 11 s of imports and 3 to 5 s, for a small model on a CPU."""
        self.spec = spec
        self.directory = open_store(mirror(model_content(spec.model)))
        self._llm = _start(spec, self.directory.root)
        self._engine = self._llm.llm_engine
        if spec.device == "cpu":
            self._call("sample_by_inversion")
        self.tensors = self._tensors_on_disk()
        """Of the model as a checkpoint has it: what an update has to bring, and `read` gives."""
        self._waiting: set[str] = set()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name in the checkpoint; a head tied to the embedding is not among them."""
        return {name: stored.shape for name, stored in self.tensors.items()}

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.tensors[EMBEDDING].shape[0]

    def read(self, name: str) -> Tensor:
        """A tensor of the model directory, in the type of the sampler."""
        whole = torch.empty(self.tensors[name].shape, dtype=self.spec.torch_dtype)
        read_rows(self.directory, self.tensors[name], 0, whole)
        return whole

    # Sampling

    def add(self, request: str, prompt_ids: Sequence[int], seed: int, sampling: Sampling) -> None:
        """Queues one answer."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        from jobs.ppo.inversion import SEED

        seeded: dict[str, Any] = {"extra_args": {SEED: seed}} if self.spec.device == "cpu" else {"seed": seed}
        parameters = SamplingParams(
            temperature=sampling.temperature, max_tokens=sampling.max_new_tokens, logprobs=0, **seeded,
            stop_token_ids=list(sampling.end_ids), ignore_eos=True, detokenize=False, flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True,
        )  # fmt: skip
        self._engine.add_request(request, tokens_input(list(prompt_ids)), parameters)
        self._waiting.add(request)

    def step(self) -> list[Finished]:
        """One forward pass over everything that is being sampled; the answers that it finished."""
        finished: list[Finished] = []
        for output in self._engine.step():
            self._waiting.discard(output.request_id)
            answer = cast(Any, output).outputs[0]
            finished.append(
                Finished(
                    output.request_id,
                    list(answer.token_ids),
                    list(answer.logprobs.logprobs),
                    answer.finish_reason == "stop",
                )
            )
        return finished

    @property
    def waiting(self) -> int:
        """Answers that are not finished."""
        return len(self._waiting)

    def abort(self) -> None:
        """Forgets every answer that is not finished."""
        self._engine.abort_request(sorted(self._waiting))
        self._waiting.clear()
        while self._engine.has_unfinished_requests():  # a pass that was already scheduled
            self._engine.step()

    def forget_prefixes(self) -> None:
        """Empties the prefix cache: what is sampled is a function of weights and requests, not of what was asked before."""
        assert not self._waiting, self._waiting
        emptied = self._engine.reset_prefix_cache()
        assert emptied, "vLLM holds blocks of requests that are over"

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """fp32 (N,) log-probabilities, at temperature 1, of every token but the first of its sequence.

        Args:
            sequences: token ids, each shorter than max_model_len: vLLM samples one token after them.
        """
        from vllm import SamplingParams

        assert not self._waiting, self._waiting
        parameters = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, flat_logprobs=True
        )
        prompts = [{"prompt_token_ids": list(sequence)} for sequence in sequences]
        outputs = self._llm.generate(cast(Any, prompts), parameters, use_tqdm=False)
        return torch.tensor([value for output in outputs for value in cast(Any, output).prompt_logprobs.logprobs])

    # Weights

    def connect(self, init_info: dict[str, Any]) -> None:
        """The handshake of the transfer engine: what vLLM's trainer side (nccl, ipc) sends; {} for buckets."""
        self._call("init_weight_transfer_engine", init_info=init_info)

    def start_update(self) -> None:
        self._call("start_weight_update")

    def update(self, update_info: dict[str, Any]) -> None:
        """One chunk, as the transfer engine understands it. Raises WeightSyncFailed, or whatever vLLM raises."""
        self._call("update_weights", update_info=update_info)

    def update_bucket(self, manifest: Manifest, bucket: Bucket) -> None:
        """One bucket. Raises WeightSyncFailed."""
        self.update({"manifest": manifest, "bucket": bucket})

    def finish_update(self) -> list[str]:
        """Ends an update; parameters that it did not reach, in vLLM's names. Only buckets are counted."""
        self._call("finish_weight_update")
        left = self._call("parameters_not_updated") if self.spec.transfer == "buckets" else []
        self.forget_prefixes()
        return left

    def abandon_update(self) -> None:
        """Ends an update that will not be finished; the weights are worth nothing until a whole one has come."""
        self._call("abandon_weight_update")

    def load(self, names: Sequence[str], changed: Mapping[str, Tensor]) -> list[str]:
        """Sends itself weights of the model directory, some of them changed; parameters that were not reached, as above.

        Args:
            names: whole layers, so that what vLLM fuses is complete.
        """
        if self.spec.transfer != "buckets":  # their transport begins at a trainer; the loading behind it is the same
            self._call("reload_weights", weights_iterator=[(name, self._own(name, changed)) for name in names])
            self.forget_prefixes()
            return []
        wire = [WireTensor(name, self.spec.torch_dtype, self.tensors[name].shape) for name in names]
        manifest = Manifest(0, plan_buckets(wire))
        self.start_update()
        for index, places in enumerate(manifest.buckets):
            tensors = {place.name: self._own(place.name, changed) for place in places}
            self.update_bucket(manifest, pack_bucket(manifest, index, tensors))
        return self.finish_update()

    def sleep(self) -> None:
        """Frees the GPU; what was cached is gone, the weights come back with `wake`."""
        assert not self._waiting, self._waiting
        self._llm.sleep(level=1)

    def wake(self) -> None:
        self._llm.wake_up()

    def close(self) -> None:
        """Ends the engine; the process cannot start another one reliably."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    def _own(self, name: str, changed: Mapping[str, Tensor]) -> Tensor:
        return changed[name] if name in changed else self.read(name)

    def _call(self, verb: str, **arguments: Any) -> Any:
        return self._engine.collective_rpc(verb, kwargs=arguments)[0]

    def _tensors_on_disk(self) -> dict[str, StoredTensor]:
        stored = {name: tensor for name, tensor in list_tensors(self.directory).items() if not IGNORED.search(name)}
        if getattr(self._engine.model_config.hf_config, "tie_word_embeddings", False):
            stored.pop(HEAD, None)
        return stored


def _start(spec: EngineSpec, directory: str) -> Any:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }  # fmt: skip
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    torch.set_num_threads(spec.threads)  # before vLLM makes it do nothing

    from vllm import LLM

    from jobs.ppo.inversion import SeedOfRow
    from jobs.ppo.transfer import BACKEND, EXTENSION

    on_cpu: dict[str, Any] = {
        "distributed_executor_backend": "uni",
        "logits_processors": [SeedOfRow],
        "enforce_eager": True,  # torch.compile costs a minute and keeps kernels of the first weights
    }
    on_gpu: dict[str, Any] = {"tensor_parallel_size": spec.tensor_parallel, "enable_sleep_mode": spec.sleeps}
    return LLM(
        model=directory, dtype=spec.dtype, skip_tokenizer_init=True, trust_remote_code=spec.trust_remote_code,
        max_model_len=spec.max_model_len, max_num_seqs=spec.max_num_seqs, logprobs_mode="processed_logprobs",
        kv_cache_memory_bytes=None if spec.kv_cache_gib is None else int(spec.kv_cache_gib * 2**30),
        worker_extension_cls=EXTENSION, disable_log_stats=True, seed=0,
        weight_transfer_config=cast(Any, {"backend": BACKEND if spec.transfer == "buckets" else spec.transfer}),
        **(on_cpu if spec.device == "cpu" else on_gpu),
    )  # fmt: skip
