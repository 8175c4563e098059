"""Conversations of one shard -> prompts for a policy to answer.

    messages --all before the last answer--> template with generation prompt --> PromptRow

The answer of the data stays beside the prompt, as text: a reward may compare with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from configs.schema.corpus import ShardsStage
from jobs.corpus.raw import Message, RowError
from jobs.corpus.schema import PROMPT_SCHEMA, QUARANTINE_SCHEMA
from jobs.corpus.template import prompt_tokens


@dataclass(frozen=True)
class Prompts:
    """The prompts of a shard and what did not become one."""

    table: pa.Table
    """PROMPT_SCHEMA, in the order of the documents."""
    rejected: pa.Table
    """QUARANTINE_SCHEMA"""


def prompt_rows(documents: pa.Table, tokenizer: PreTrainedTokenizerBase, stage: ShardsStage) -> Prompts:
    """Prompts of conversations; those longer than the context are set aside: a cut prompt asks for something else."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    for document in documents.select(["document_id", "messages", "uri", "source"]).to_pylist():
        try:
            prompt, answer = _asked(orjson.loads(document["messages"]))
            ids = prompt_tokens(tokenizer, prompt).tolist()
            if len(ids) > stage.context:
                raise RowError("too_long", f"{len(ids) - stage.context} tokens over the context of {stage.context}")
        except RowError as error:
            place = {"uri": document["uri"], "source": document["source"]}
            rejected.append({**place, "reason": error.reason, "detail": error.detail})
            continue
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        rows.append({
            "input_ids": ids, "document_id": document["document_id"], "messages": orjson.dumps(turns).decode(),
            "answer": answer,
        })  # fmt: skip
    return Prompts(
        pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA), pa.Table.from_pylist(rejected, schema=QUARANTINE_SCHEMA)
    )


def _asked(messages: Sequence[Message]) -> tuple[Sequence[Message], str | None]:
    """The conversation before its last answer, and that answer; all of it where it ends with a question."""
    if messages[-1]["role"] != "assistant":
        return messages, None
    prompt = messages[:-1]
    if not any(turn["role"] == "user" for turn in prompt):
        raise RowError("no_prompt", "nothing is asked before the answer")
    return prompt, messages[-1]["content"]
