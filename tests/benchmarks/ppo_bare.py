"""The parts of a step without any of us around them, on the answers that our last step has sampled.

samples/step-N.parquet --newest--> Rollouts --vLLM: LLM.generate, as many tokens for the same prompts
                                            --plain PyTorch: forwards of reference, reward, critic and old policy;
                                              training steps of policy and critic (tests/benchmarks/engines.py)
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.ppo_work import SHAPES
from tests.benchmarks.side_by_side import Turns


def serve_vllm(model: str, threads: int, scratch: Path, turns: Turns) -> None:
    """vLLM alone, at its fastest: no seeds, no log-probabilities, nobody waits for single answers."""
    import os

    import torch

    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    torch.set_num_threads(threads)
    from vllm import LLM, SamplingParams

    llm = LLM(
        model, dtype="bfloat16", skip_tokenizer_init=True, max_model_len=512, max_num_seqs=64, enforce_eager=True,
        distributed_executor_backend="uni", kv_cache_memory_bytes=1 << 30,
    )  # fmt: skip
    while turns.wait():
        rollouts = newest_rollouts(scratch)
        prompts: Any = [{"prompt_token_ids": rollout.prompt_ids} for rollout in rollouts]
        parameters = [
            SamplingParams(temperature=1.0, max_tokens=len(rollout.answer_ids), ignore_eos=True, detokenize=False)
            for rollout in rollouts
        ]
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - began
        turns.report(seconds, 0.0, tokens=sum(len(output.outputs[0].token_ids) for output in outputs))


def serve_torch(model: str, threads: int, scratch: Path, turns: Turns) -> None:
    """Forwards and training steps, one after the other; each with all threads."""
    import torch

    from configs.schema.ppo import PpoAlgorithm
    from jobs.ppo.losses import Totals, policy_loss_of_step, value_loss
    from jobs.train.fsdp import set_threads
    from tests.benchmarks.engines import bare_model, bare_step

    set_threads(threads)
    frozen = {head: bare_model(model, head).requires_grad_(False) for head in ("logprobs", "scores", "values")}
    policy_step, critic_step = bare_step(model), bare_step(model, "values")
    settings = PpoAlgorithm()

    def forward(head: str, batches: list) -> list[Any]:
        with torch.no_grad():
            return [frozen[head](batch, 1.0).values for batch in batches]

    while turns.wait():
        micro_batches = cut(newest_rollouts(scratch))
        totals = Totals(sum(map(len, micro_batches)), sum(len(r.answer_ids) for batch in micro_batches for r in batch))
        batches = packed(micro_batches)
        clock = _Clock()
        reference = clock.timed("reference_s", lambda batches=batches: forward("logprobs", batches))
        clock.timed("reward_s", lambda batches=batches: forward("scores", batches))
        values = clock.timed("critic_values_s", lambda batches=batches: forward("values", batches))
        old = clock.timed("old_logprobs_s", lambda batches=batches: forward("logprobs", batches))
        learnt = packed(micro_batches, old, reference, values)
        policy_loss = policy_loss_of_step(settings, 0.05, totals)
        loss = clock.timed("policy_step_s", lambda learnt=learnt, loss=policy_loss: policy_step(learnt, loss))
        critic_loss = lambda values_W, batch, totals=totals: value_loss(values_W, batch, settings, totals)  # noqa: E731
        clock.timed("critic_step_s", lambda learnt=learnt, loss=critic_loss: critic_step(learnt, loss))
        turns.report(sum(clock.seconds.values()), loss, **clock.seconds)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, part: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        self.seconds[part] = time.perf_counter() - began
        return result


def newest_rollouts(scratch: Path) -> list[Any]:
    """What our last finished step has sampled."""
    import pyarrow.parquet as pq

    from jobs.records import Rollout

    newest = max((scratch / "ppo" / "samples").glob("step-*.parquet"))
    return [
        Rollout(
            row["prompt"], row["sample"], row["prompt_ids"], row["answer_ids"], row["sampler_logprobs"],
            row["finished"], row["version"],
        )
        for row in pq.read_table(io.BytesIO(newest.read_bytes())).to_pylist()
    ]  # fmt: skip


def cut(rollouts: list[Any]) -> list[list[Any]]:
    """Micro-batches of the same budget as ours."""
    from jobs.train.plan import share_out

    tokens = {number: len(r.prompt_ids) + len(r.answer_ids) for number, r in enumerate(rollouts)}
    [mine] = share_out([*tokens], tokens, 1, SHAPES["fixed"].micro_batch_tokens)
    return [[rollouts[number] for number in batch] for batch in mine]


def packed(micro_batches: list[list[Any]], old: Any = None, reference: Any = None, values: Any = None) -> list[Any]:
    """PackedBatches; with columns of forward passes, advantages and returns are made of them somehow."""
    from jobs.ppo.batches import pack_rollouts, split_by_answer

    if old is None:
        return [pack_rollouts(rollouts) for rollouts in micro_batches]
    return [
        pack_rollouts(
            rollouts,
            old_logprobs=split_by_answer(old[n], rollouts), reference_logprobs=split_by_answer(reference[n], rollouts),
            old_values=split_by_answer(values[n], rollouts), advantages=split_by_answer(values[n] + old[n], rollouts),
            returns=split_by_answer(values[n] + 1, rollouts),
        )
        for n, rollouts in enumerate(micro_batches)
    ]  # fmt: skip
