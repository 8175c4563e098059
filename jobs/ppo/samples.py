"""Every answer of every step, as rows of Parquet: what was asked, answered and judged.

    Experience --one file a step--> <artifact>/samples/step-000012.parquet ---> acclimate samples RUN --step 12

They lie beside the attempts, because a run that was resumed has one series of steps; a step that is done again writes the same
file again.
"""

import functools
import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.lease import check_attempt
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
from jobs.ppo.experience import Experience
from jobs.ppo.job import Asked, PpoJob
from jobs.ppo.sample_files import DIRECTORY

SAMPLE_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("prompt", pa.int64()),
        ("sample", pa.int64()),
        ("version", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("answer_ids", pa.list_(pa.int32())),
        ("question", pa.large_string()),
        ("answer", pa.large_string()),
        ("finished", pa.bool_()),
        ("score", pa.float64()),
        ("source_scores", pa.list_(pa.float64())),
        ("gold", pa.float64()),
        ("kl", pa.float64()),
        ("sampler_logprobs", pa.list_(pa.float32())),
    ]
)
"""`prompt` is its place in the step; `source_scores` are those of each reward before its weight, null without an opinion; `kl` is
k1 to the reference over the whole answer in nats, null without a reference; `gold` is null but for held-out answers that a gold
reward has an opinion of."""


def file_of(asked: Asked) -> str:
    """Steps are counted from 1 where people see them; held-out prompts are answered after `asked.step` of them."""
    return f"step-{asked.step + 1:06d}.parquet" if asked.split == "train" else f"heldout-{asked.step:06d}.parquet"


class SampleWriter:
    """Keeps the tokenizer, which takes longer to load than the answers of a step to write."""

    def __init__(self, job: PpoJob) -> None:
        self._job = job
        tokenizer: Any = load_tokenizer(read_tokenizer_files(job.policy, job.trust_remote_code))
        self._decode = functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)

    def write(self, asked: Asked, experience: Experience) -> None:
        """Raises LeaseLost where this attempt is no longer the one that writes."""
        rows: list[dict[str, Any]] = []
        for rollout in experience.rollouts(sorted(experience.answers)):
            number = experience.number(rollout)
            kl = None
            if experience.reference:
                kl = float((experience.old[number].astype(np.float64) - experience.reference[number]).sum())
            gold = experience.gold.get(number)
            if gold is not None and math.isnan(gold):
                gold = None
            rows.append({
                "step": asked.step + (asked.split == "train"), "prompt": rollout.prompt_id, "sample": rollout.sample,
                "version": rollout.version, "prompt_ids": rollout.prompt_ids, "answer_ids": rollout.answer_ids,
                "question": self._decode(rollout.prompt_ids), "answer": self._decode(rollout.answer_ids),
                "finished": rollout.finished, "score": experience.scores[number],
                "source_scores": [None if math.isnan(scores[number]) else scores[number] for scores in experience.sources],
                "gold": gold, "kl": kl, "sampler_logprobs": rollout.sampler_logprobs,
            })  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), sink)
        check_attempt(self._job.artifact, self._job.attempt)
        self._job.artifact.write(f"{DIRECTORY}/{file_of(asked)}", sink.getvalue())
