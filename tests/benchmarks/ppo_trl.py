"""TRL 1.12's PPOTrainer, the last there is, one step a turn; its own loop, timed from outside.

    pip install --target, once --> artifacts/peers/trl-1.12.0 --first on sys.path--> PPOTrainer.train
    batch_generation | reference, values, rewards ... masked_whiten | epochs ... on_step_end        = generate | score | update

Its models are in bf16 without fp32 masters, which costs it less than ours; prompts are padded on the left, as it wants them.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.ppo_work import ROOT, SEED, Shape, prompts_of
from tests.benchmarks.side_by_side import Turns

VERSION = "1.12.0"
DIRECTORY = ROOT / "artifacts" / "peers" / f"trl-{VERSION}"
PADDING = "<|endoftext|>"
"""TRL takes every padding token for padding, and this tokenizer pads with the token that ends a turn of its prompts."""


def fetch() -> None:
    """Installs it into a folder of its own, where it does not touch the pinned one; a second time that is a no-op."""
    if not (DIRECTORY / f"trl-{VERSION}.dist-info").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(DIRECTORY)]
        subprocess.run([*command, f"trl=={VERSION}"], check=True)


def serve(shape: Shape, model: str, threads: int, scratch: Path, turns: Turns) -> None:
    """Args:
    scratch: TRL's output directory; it saves nothing.
    """
    sys.path.insert(0, str(DIRECTORY))
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    assert trl.__version__ == VERSION, f"{trl.__file__} is {trl.__version__}"
    torch.set_num_threads(threads)
    phases = _Phases()
    ppo_trainer.batch_generation = phases.after(phases.asking(ppo_trainer.batch_generation), "generate")
    ppo_trainer.masked_whiten = phases.after(ppo_trainer.masked_whiten, "score")
    ppo_trainer.truncate_response = phases.answered(ppo_trainer.truncate_response)

    class OneStepATurn(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            phases.wait(turns)

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            phases.loss = logs["loss/policy_avg"]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            phases.ended("update")
            phases.report(turns, shape)
            phases.wait(turns)

    tokenizer = AutoTokenizer.from_pretrained(model, pad_token=PADDING, padding_side="left")
    prompts = [{"input_ids": ids} for ids in prompts_of(shape, model)]
    micro_batch = max(1, shape.micro_batch_tokens // (shape.context + shape.new_tokens))
    arguments = PPOConfig(
        output_dir=str(scratch / "trl"), report_to="none", save_strategy="no", use_cpu=True, seed=SEED,
        # Everything is in bf16 already; under autocast it would be slower.
        bf16=False, gradient_checkpointing=False, disable_tqdm=True, logging_steps=1, learning_rate=1e-7,
        per_device_train_batch_size=micro_batch, gradient_accumulation_steps=shape.prompts // micro_batch,
        num_ppo_epochs=1, num_mini_batches=1, total_episodes=1_000_000, num_sample_generations=0,
        response_length=shape.new_tokens, stop_token="eos" if shape.ends else None, temperature=1.0,
    )  # fmt: skip
    judges = [
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.bfloat16) for _ in range(2)
    ]
    policy, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16) for _ in range(2))
    trainer = PPOTrainer(
        arguments, tokenizer, policy, reference, judges[0], Dataset.from_list(prompts), judges[1],
        eval_dataset=Dataset.from_list(prompts[:1]), callbacks=[OneStepATurn()],
    )  # fmt: skip
    trainer.train()


class _Phases:
    """A clock that TRL's own functions stop when they return."""

    def __init__(self) -> None:
        self.loss = 0.0
        self._last = self._began = 0.0
        self._seconds: dict[str, float] = {}
        self._asked, self._answered = 0, 0

    def wait(self, turns: Turns) -> None:
        if not turns.wait():
            raise SystemExit
        self._began = self._last = time.perf_counter()
        self._seconds, self._asked, self._answered = {}, 0, 0

    def ended(self, phase: str) -> None:
        now = time.perf_counter()
        self._seconds[phase] = now - self._last
        self._last = now

    def after(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = function(*arguments, **named)
            self.ended(phase)
            return result

        return wrapped

    def asking(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Counts the tokens of prompts."""

        def wrapped(policy: Any, queries: Any, batch: int, padding: int, settings: Any) -> Any:
            self._asked += int((queries != padding).sum())
            return generate(policy, queries, batch, padding, settings)

        return wrapped

    def answered(self, truncate: Callable[..., Any]) -> Callable[..., Any]:
        """Counts the tokens of answers up to their end token."""

        def wrapped(end: int, padding: int, responses: Any) -> Any:
            truncated = truncate(end, padding, responses)
            self._answered += int((truncated != padding).sum())
            return truncated

        return wrapped

    def report(self, turns: Turns, shape: Shape) -> None:
        answers = self._answered if shape.ends else shape.prompts * shape.new_tokens
        seconds = self._last - self._began
        turns.report(seconds, self.loss, tokens=answers, prompt_tokens=self._asked, **self._seconds)
