"""The peers' own trainers, one optimizer step a turn: transformers.Trainer, and TRL's SFTTrainer and DPOTrainer.

An epoch is one optimizer step over the same data, so every turn does the same work as ours. A turn is the time between
on_step_begin and on_step_end: reading and collating the batch is not counted, for the peers' benefit.
"""

import math
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, pack_dataset

from tests.benchmarks.engines import LEARNING_RATE
from tests.benchmarks.side_by_side import Turns
from tests.benchmarks.training_data import CONTEXT, PROMPT_TOKENS, ROWS_PER_MICRO_BATCH

DOCUMENTS_PER_MICRO_BATCH = 4
"""Of at most 512 tokens: no more than the 2,048 positions of our micro-batches."""
PAIRS_PER_MICRO_BATCH = 4
"""2 x 256 tokens each: 2,048 positions."""


class OneStepATurn(TrainerCallback):
    """Lets the trainer's own loop wait for its turn before every optimizer step."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._began = self._seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self._turns.wait():
            raise SystemExit
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._seconds = time.perf_counter() - self._began

    def on_log(self, _arguments: Any, _state: Any, _control: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self._turns.report(self._seconds, logs["loss"])


def hf_padded(model: str, documents: list[list[int]], weights: str, turns: Turns) -> None:
    """transformers.Trainer, batches padded to their longest document."""
    tokenizer = _tokenizer(model)
    trainer = Trainer(
        _model(model, weights),
        TrainingArguments(**_common(weights, len(documents), DOCUMENTS_PER_MICRO_BATCH)),
        DataCollatorForLanguageModeling(tokenizer, mlm=False),
        Dataset.from_dict({"input_ids": documents}),
        callbacks=[OneStepATurn(turns)],
    )
    trainer.train()


def trl_padded(model: str, documents: list[list[int]], weights: str, turns: Turns) -> None:
    """TRL's SFTTrainer, batches padded to their longest document."""
    arguments = SFTConfig(**_common(weights, len(documents), DOCUMENTS_PER_MICRO_BATCH), max_length=CONTEXT)
    _sft(model, documents, weights, arguments, turns)


def trl_packed(model: str, documents: list[list[int]], weights: str, turns: Turns) -> None:
    """TRL's SFTTrainer with its best-fit-decreasing packing, which keeps documents apart."""
    rows = len(pack_dataset(Dataset.from_dict({"input_ids": documents}), CONTEXT, "bfd"))
    packing: dict[str, Any] = {"packing": True, "packing_strategy": "bfd", "max_length": CONTEXT}
    arguments = SFTConfig(**_common(weights, rows, ROWS_PER_MICRO_BATCH), **packing)
    _sft(model, documents, weights, arguments, turns)


def _sft(model: str, documents: list[list[int]], weights: str, arguments: SFTConfig, turns: Turns) -> None:
    trainer = SFTTrainer(
        _model(model, weights), arguments, train_dataset=Dataset.from_dict({"input_ids": documents}),
        processing_class=_tokenizer(model), callbacks=[OneStepATurn(turns)],
    )  # fmt: skip
    steps_of_epoch = len(trainer.get_train_dataloader()) / arguments.gradient_accumulation_steps
    assert math.ceil(steps_of_epoch) == 1, f"an epoch is {steps_of_epoch} steps; it has to be one"
    trainer.train()


def trl_dpo(model: str, pairs: list, references: list[list[float]], weights: str, turns: Turns) -> None:
    """TRL's DPOTrainer with the reference's log-probabilities known beforehand, as ours has them.

    Args:
        pairs: ExampleRow, the better answer first.
        references: of each pair's answers.
    """
    trainer = DPOTrainer(
        _model(model, weights),
        args=DPOConfig(**_common(weights, len(pairs), PAIRS_PER_MICRO_BATCH), precompute_ref_log_probs=True),
        # It insists on tokenizing text itself, so it gets a little here and the tokens of the pairs below.
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
        processing_class=_tokenizer(model), callbacks=[OneStepATurn(turns)],
    )  # fmt: skip
    answers = [(row.input_ids[: row.segment_lengths[0]], row.input_ids[row.segment_lengths[0] :]) for row in pairs]
    trainer.train_dataset = Dataset.from_list(
        [
            {
                "prompt_ids": better[:PROMPT_TOKENS], "chosen_ids": better[PROMPT_TOKENS:],
                "rejected_ids": worse[PROMPT_TOKENS:], "ref_chosen_logps": known[0], "ref_rejected_logps": known[1],
            }
            for (better, worse), known in zip(answers, references, strict=True)
        ]
    )  # fmt: skip
    trainer.train()


def _tokenizer(model: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _model(model: str, weights: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, weights))


def _common(weights: str, examples: int, micro_batch: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.gettempdir(), "use_cpu": True, "report_to": "none", "save_strategy": "no",
        # With fp32 weights products run in bf16 under autocast; with bf16 weights they do so by themselves.
        "bf16": weights == "float32", "gradient_checkpointing": False,
        "per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": math.ceil(examples / micro_batch),
        "max_steps": 1_000_000, "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
        "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
