"""Beside the engine, in its process: what tests ask it to do. Functions here and in the tests are run by EngineProcess."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from cluster.storage import open_store
from jobs.ppo.probe import ProbeReading
from jobs.ppo.rollout import RolloutEngine, State
from jobs.ppo.vllm_engine import EngineSpec
from jobs.records import PromptRequest, Rollout, Sampling
from tests.ppo.engine_process import EngineProcess, engine_process
from tests.ppo.learner_side import VOCABULARY, Sent

NATS = 1e-4
"""Between two implementations in fp32; single tokens of a random model have log-probabilities around -6."""
SAMPLING = Sampling(temperature=0.7, max_new_tokens=24, end_ids=(0, 1, 2, 3))
"""Four of 310 tokens end an answer, so that some answers end early and others run to the limit."""


@contextmanager
def tiny_engine(base: Path) -> Iterator[EngineProcess]:
    """An engine of the tiny Llama in `base`, in fp32."""
    spec = EngineSpec(
        open_store(str(base)), "float32", max_model_len=128, kv_cache_gib=0.25, max_num_seqs=16, threads=1
    )
    with engine_process(spec) as engine:
        yield engine


def reload_if_changed(engine: RolloutEngine) -> None:
    if engine.version != 0 or engine.state is not State.READY:
        engine.reload()


def prompts(number: int = 6, answers: int = 3) -> list[PromptRequest]:
    generator = torch.Generator().manual_seed(11)
    return [
        PromptRequest(
            100 + index,
            torch.randint(4, VOCABULARY, (5 + 3 * index,), generator=generator).tolist(),
            [1000 * index + sample for sample in range(answers)],
        )
        for index in range(number)
    ]


def generated(engine: RolloutEngine, requests: list[PromptRequest]) -> list[list[Rollout]]:
    return list(engine.generate(requests, SAMPLING))


def sync(engine: RolloutEngine, sent: Sent, probe: bool = True) -> ProbeReading | None:
    engine.start_weight_update(sent.manifest)
    for bucket in sent.buckets:
        engine.update_weights(bucket)
    return engine.finish_weight_update(sent.digests, sent.probe if probe else None)


def logprobs(engine: RolloutEngine, sent: Sent) -> Tensor:
    return engine.logprobs(sent.probe.sequences)


def reference_logprobs(model: Path, rollout: Rollout, temperature: float) -> Tensor:
    """Of the answer's tokens, by transformers."""
    ids = torch.tensor([rollout.prompt_ids + rollout.answer_ids])
    with torch.no_grad():
        logits = _transformers(model)(ids).logits[0, :-1] / temperature
    answered = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return answered[len(rollout.prompt_ids) - 1 :]


@cache
def _transformers(model: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
