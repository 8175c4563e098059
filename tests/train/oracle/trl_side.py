"""TRL's side of a comparison: its own trainers, from text to the gradient of one batch.

    ExampleRow --words--> datasets.Dataset --TRL tokenizes, collates--> batch --TRL's compute_loss--> loss --backward--> gradient

The tokenizer has one word for every token, so that TRL's batches are made of the very tokens ours are packed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from jobs.records import ExampleRow
from tests.train.tiny_models import VOCABULARY

PAD, BOS, EOS = 0, 1, 2
SPECIAL = {PAD: "<pad>", BOS: "<s>", EOS: "</s>"}
"""As in tests/train/tiny_models.py."""


@dataclass(frozen=True)
class LossAndGradient:
    loss: float
    gradient: dict[str, Tensor]
    """Of every parameter, by the name it has in a checkpoint."""

    def __add__(self, other: "LossAndGradient") -> "LossAndGradient":
        summed = {name: value + other.gradient[name] for name, value in self.gradient.items()}
        return LossAndGradient(self.loss + other.loss, summed)

    def __mul__(self, factor: float) -> "LossAndGradient":
        return LossAndGradient(self.loss * factor, {name: value * factor for name, value in self.gradient.items()})


def of_sft(model: Path, rows: Sequence[ExampleRow], output: Path, **options: Any) -> LossAndGradient:
    """SFTTrainer on prompts with one completion each."""
    texts = [{"prompt": prompt, "completion": answers[0]} for prompt, answers in map(_texts, rows)]
    trainer = SFTTrainer(
        _causal(model), SFTConfig(**_common(output, rows), **options), train_dataset=_dataset(texts),
        processing_class=_tokenizer(),
    )  # fmt: skip
    return _run(trainer)


def of_reward(model: Path, rows: Sequence[ExampleRow], output: Path, **options: Any) -> LossAndGradient:
    """RewardTrainer on pairs with their margins."""
    texts = [{**pair, "margin": row.margin} for row, pair in zip(rows, map(_pair, rows), strict=True)]
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    trainer = RewardTrainer(
        scorer, RewardConfig(**_common(output, rows), **options), train_dataset=_dataset(texts),
        processing_class=_tokenizer(),
    )  # fmt: skip
    return _run(trainer)


def of_dpo(model: Path, reference: Path, rows: Sequence[ExampleRow], output: Path, **options: Any) -> LossAndGradient:
    """DPOTrainer on pairs, the reference model beside the policy."""
    trainer = DPOTrainer(
        _causal(model), _causal(reference), DPOConfig(**_common(output, rows), **options),
        train_dataset=_dataset(list(map(_pair, rows))), processing_class=_tokenizer(),
    )  # fmt: skip
    return _run(trainer)


def of_kto(
    model: Path, reference: Path, rows: Sequence[ExampleRow], output: Path, **options: Any
) -> tuple[LossAndGradient, float]:
    """KTOTrainer on thumbs, and its estimate of the KL divergence. It makes the mismatched completions itself."""
    texts = [
        {"prompt": prompt, "completion": answers[0], "label": row.levels[0] == 0}
        for row, (prompt, answers) in zip(rows, map(_texts, rows), strict=True)
    ]
    trainer = KTOTrainer(
        _causal(model), _causal(reference), KTOConfig(**_common(output, rows), **options), train_dataset=_dataset(texts),
        processing_class=_tokenizer(),
    )  # fmt: skip
    return _run(trainer), trainer._metrics["train"]["kl"][0]


def of_orpo(model: Path, rows: Sequence[ExampleRow], output: Path, **options: Any) -> LossAndGradient:
    """ORPOTrainer on pairs."""
    trainer = ORPOTrainer(
        _causal(model), ORPOConfig(**_common(output, rows), max_length=None, **options),
        train_dataset=_dataset(list(map(_pair, rows))), processing_class=_tokenizer(),
    )  # fmt: skip
    return _run(trainer)


def _run(trainer: Any) -> LossAndGradient:
    """The loss and the gradient of the trainer's whole data as one batch."""
    batch = trainer.data_collator(list(trainer.train_dataset))
    model = trainer.model.train()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    return LossAndGradient(float(loss.detach()), {name: value.grad for name, value in model.named_parameters()})


def _common(output: Path, rows: Sequence[ExampleRow]) -> dict[str, Any]:
    return {
        "output_dir": str(output), "per_device_train_batch_size": len(rows), "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": "none",
    }  # fmt: skip


def _causal(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def _dataset(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(rows)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {_word(token): token for token in range(VOCABULARY)}
    model = Tokenizer(WordLevel(words, unk_token=SPECIAL[PAD]))
    model.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue] - settable, by its documentation
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=SPECIAL[PAD], bos_token=SPECIAL[BOS], eos_token=SPECIAL[EOS]
    )


def _word(token: int) -> str:
    return SPECIAL.get(token, f"w{token}")


def _texts(row: ExampleRow) -> tuple[str, list[str]]:
    """The prompt, and what follows it in each segment, as words."""
    starts = [0, *accumulate(row.segment_lengths)]
    words = [_word(token) for token in row.input_ids]
    spans = list(zip(starts, row.prompt_lengths, starts[1:], strict=False))
    answers = [" " + " ".join(words[start + prompt : stop]) for start, prompt, stop in spans]
    return " ".join(words[: row.prompt_lengths[0]]), answers


def _pair(row: ExampleRow) -> dict[str, str]:
    prompt, answers = _texts(row)
    better = row.levels.index(min(row.levels))
    return {"prompt": prompt, "chosen": answers[better], "rejected": answers[1 - better]}
