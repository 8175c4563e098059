"""The text by which samplers are held to the learner: fixed for a whole run, at least as long as a probe has to be.

prompts of the run, one after the other --> sequences --Learner over all ranks--> log-probabilities, on rank 0
"""

from collections.abc import Sequence
from itertools import cycle

import torch
import torch.distributed as dist
from torch import Tensor

from configs.errors import RunFailed
from jobs.ppo.probe import LEAST_TOKENS
from jobs.records import PackedRow, PromptRow
from jobs.train.batch import empty_batch, pack_rows
from jobs.train.learner import Learner
from jobs.train.plan import share_out

Sequences = tuple[tuple[int, ...], ...]


def probe_sequences(prompts: Sequence[PromptRow]) -> Sequences:
    """The first prompts, as many as are needed; they begin again where there are too few.

    Raises:
        RunFailed: no prompt has two tokens.
    """
    if all(len(prompt.input_ids) < 2 for prompt in prompts):
        raise RunFailed(
            "every prompt has one token only, so nothing in them tells new weights from old ones; give the model a chat template "
            "that says who speaks, or longer prompts"
        )
    chosen: list[tuple[int, ...]] = []
    tokens = 0
    for prompt in cycle(prompts):
        if tokens >= LEAST_TOKENS:
            break
        chosen.append(tuple(prompt.input_ids))
        tokens += max(len(prompt.input_ids) - 1, 0)
    return tuple(chosen)


def probe_logprobs(learner: Learner, sequences: Sequences, micro_batch_tokens: int) -> Tensor:
    """fp32 (N,) of every token but the first of its sequence, at temperature 1; on every rank, collective."""
    tokens = {number: len(sequence) for number, sequence in enumerate(sequences)}
    mine = share_out(list(tokens), tokens, dist.get_world_size(), micro_batch_tokens)[dist.get_rank()]
    own: dict[int, Tensor] = {}
    for numbers in mine:
        rows = [sequences[number] for number in numbers]
        packed = [PackedRow(list(row), [0.0] + [1.0] * (len(row) - 1), [len(row)], [0]) for row in rows]
        values = learner.forward(pack_rows(packed) if packed else empty_batch()).to("cpu", torch.float32)
        own |= dict(zip(numbers, values.split([len(row) - 1 for row in rows]) if rows else (), strict=True))
    everyone: list[dict[int, Tensor]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    by_number = {number: values for part in everyone for number, values in part.items()}
    return torch.cat([by_number[number] for number in sorted(by_number)])
