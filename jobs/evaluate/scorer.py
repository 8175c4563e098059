"""The worker's side: one model in one Ray task, which yields its scores set by set and then its answers.

    Learner without optimizer (world of one rank) --logprobs--> DocumentScore      the same forward as in training
    transformers.generate, greedy                  --text-----> Answer

The two never hold the model at the same time.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from cluster.storage import Store
from configs.schema.evaluation import HeldoutSet
from jobs.corpus.template import end_token_ids
from jobs.evaluate.heldout import EvaluationError, HeldoutDocument, HeldoutRow, conversation_prompt, heldout_rows
from jobs.evaluate.metrics import DocumentScore
from jobs.models import load_tokenizer
from jobs.train.batch import pack_rows
from jobs.train.fsdp import COMPUTE_TYPES, build_mesh, set_threads
from jobs.train.learner import Learner, LearnerSpec

BATCH_TOKENS = 2048
"""Tokens of a forward pass: enough to keep every core busy, and 1/4 GB of logits at 150,000 words."""


@dataclass(frozen=True)
class ScorerTask:
    """What one model is asked.

    Example:
        ScorerTask(Store("s3://..."), "bf16", threads=1, sets={"pubmed": (HeldoutSet(corpus="papers"), documents)},
                   prompts=documents[:3], answer_tokens=128)
    """

    model: Store
    precision: Literal["bf16", "fp32"]
    threads: int
    sets: dict[str, tuple[HeldoutSet, list[HeldoutDocument]]]
    prompts: list[HeldoutDocument]
    answer_tokens: int
    trust_remote_code: bool = False


@dataclass(frozen=True)
class SetScores:
    """The scores of one set, in the order of its documents."""

    set_name: str
    scores: list[DocumentScore]


@dataclass(frozen=True)
class Answer:
    """One greedy answer.

    Example:
        Answer(document_id=-712, text="The drug reduced mortality.", tokens=9, ended=True)
    """

    document_id: int
    text: str
    tokens: int
    """Generated, an end of sequence included."""
    ended: bool
    """Whether it stopped by an end-of-sequence token rather than by the limit."""


def score_model(task: ScorerTask) -> Iterator[SetScores | Answer]:
    """Scores every set, then answers every prompt. Raises EvaluationError where the model yields no finite numbers."""
    set_threads(task.threads)
    tokenizer = load_tokenizer(task.model, task.trust_remote_code)
    ends = end_token_ids(task.model, tokenizer)
    with lone_rank():
        spec = LearnerSpec(task.model, task.precision, optimizer=None, trust_remote_code=task.trust_remote_code)
        learner = Learner(spec, build_mesh(1))
        learner.load()
        for name, (chosen, documents) in task.sets.items():
            yield SetScores(name, score_rows(learner, heldout_rows(documents, chosen, tokenizer, ends)))
        del learner
    if task.prompts:
        yield from answer_prompts(task, tokenizer)


def score_rows(learner: Learner, rows: Sequence[HeldoutRow]) -> list[DocumentScore]:
    """Sums -log p over the weighted tokens of each row, in fp64."""
    scores = []
    for batch in _batches(rows):
        nats_W = -learner.forward(pack_rows([row.row for row in batch])).double()
        counts = [sum(weight > 0 for weight in row.row.weights) for row in batch]
        for row, nats, count in zip(batch, nats_W.split(counts), counts, strict=True):
            total = nats.sum().item()
            if not math.isfinite(total):
                raise EvaluationError(
                    f"{learner.spec.model.root} gives a loss of {total} on document {row.document_id}: its weights are damaged. "
                    "Look at the loss of the training that made it."
                )
            scores.append(DocumentScore(row.document_id, total, count, row.bytes))
    return scores


def answer_prompts(task: ScorerTask, tokenizer: PreTrainedTokenizerBase) -> Iterator[Answer]:
    """Answers greedily, one prompt at a time: padding to a batch would change bf16 results."""
    with _local_directory(task.model) as directory:
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=COMPUTE_TYPES[task.precision],
            local_files_only=True,
            trust_remote_code=task.trust_remote_code,
        ).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    ends = sorted(end_token_ids(task.model, tokenizer))
    # Instead of the model's own settings: a repetition penalty or a temperature there would make models incomparable.
    model.generation_config = GenerationConfig(
        max_new_tokens=task.answer_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    for document in task.prompts:
        prompt, _ = conversation_prompt(document)
        encoded: Any = tokenizer.apply_chat_template(
            cast(list[dict[str, str]], prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output_BT = model.generate(**encoded.to(device))
        answer = output_BT[0, encoded["input_ids"].shape[1] :].tolist()
        text = tokenizer.decode(answer, skip_special_tokens=True)
        assert isinstance(text, str)
        yield Answer(document.document_id, text.strip(), len(answer), ended=answer[-1] in ends)


@contextmanager
def lone_rank() -> Iterator[None]:
    """A process group of this process alone, which FSDP asks for even with one rank."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _batches(rows: Sequence[HeldoutRow]) -> Iterator[list[HeldoutRow]]:
    batch: list[HeldoutRow] = []
    tokens = 0
    for row in rows:
        if batch and tokens + len(row.row.input_ids) > BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += len(row.row.input_ids)
    if batch:
        yield batch


@contextmanager
def _local_directory(model: Store) -> Iterator[str]:
    if not model.is_s3:
        yield model.root
        return
    with tempfile.TemporaryDirectory(prefix="acclimate-model-") as scratch:
        for file in model.files():
            model.get(file.name, Path(scratch) / file.name)
        yield scratch
