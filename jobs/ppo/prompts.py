"""Which prompts a step asks, and with which seeds: pure functions of (table, seed, step).

    shards --read_prompts--> PromptTable --of_step--> prompts --requests_for--> PromptRequest x N --deal--> units of every engine

There is nothing to remember: a step that is done again asks the same prompts and samples with the same seeds.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.storage import Store
from jobs.ppo.job import Asked, PpoJob
from jobs.records import PromptRequest, PromptRow
from jobs.train.plan import RowTable, rows_of_step
from jobs.train.reader import read_index, read_shard, shard_name


@dataclass(frozen=True)
class PromptTable:
    """All prompts of a split, in the order of its shards."""

    index: RowTable
    rows: tuple[PromptRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def of_step(self, seed: int, step: int, prompts: int) -> list[PromptRow]:
        """The prompts of step `step` (from 0). One may be asked twice, where an epoch ends inside a step."""
        return [self.rows[row] for row in rows_of_step(self.index, seed, step, prompts)]


def read_prompts(shards: Store, split: str) -> PromptTable:
    """Every prompt of a split, checked against the manifest. Raises ShardError."""
    index = read_index(shards, split)
    files = shards.read_json("manifest.json")["files"]
    tables = {
        number: read_shard(shards, split, number, files[f"{split}/{shard_name(number)}"]["sha256"]).to_pylist()
        for number in sorted(set(index.shard.tolist()))
    }
    places = zip(index.shard.tolist(), index.row.tolist(), strict=True)
    return PromptTable(index, tuple(PromptRow(**tables[shard][row]) for shard, row in places))


def requests_for(prompts: Sequence[PromptRow], answers: int, *key: object) -> list[PromptRequest]:
    """A request for each prompt; its `prompt_id` is its place among them.

    Args:
        key: what the seeds are a function of, beside place and sample: (run's seed, step), or of an evaluation its name.
    """
    return [
        PromptRequest(place, prompt.input_ids, [sampling_seed(*key, place, sample) for sample in range(answers)])
        for place, prompt in enumerate(prompts)
    ]


def sampling_seed(*key: object) -> int:
    """A seed from 0 to 2**63 - 1 that is a function of the key, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


Units = list[list[PromptRequest]]


def deal(requests: Sequence[PromptRequest], unit_prompts: int, engines: int) -> list[Units]:
    """For every engine its units. They are dealt out in turn, so what is in one does not depend on speed."""
    units = [list(requests[start : start + unit_prompts]) for start in range(0, len(requests), unit_prompts)]
    return [units[engine::engines] for engine in range(engines)]


def asked_prompts(job: PpoJob, table: PromptTable, asked: Asked) -> list[PromptRow]:
    """The prompts of a step of training, or of an evaluation."""
    if asked.split == "train":
        return table.of_step(job.seed, asked.step, job.stage.algorithm.prompts_per_step)
    assert job.stage.heldout is not None
    return list(table.rows[: job.stage.heldout.prompts])
