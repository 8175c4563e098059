"""Conversations as prompts: everything before the last answer, as a server would render it; what is set aside."""

import json

import pytest

from cluster.storage import Store
from jobs.corpus.prompts import prompt_rows
from jobs.corpus.shard_rows import build_rows
from tests.corpus.test_examples import documents_of, model, renderer_of, stage_of  # noqa: F401 - a fixture

QUESTION = {"messages": [{"role": "user", "content": "What is pH?"}, {"role": "assistant", "content": "Acidity."}]}
LONG = {"messages": [{"role": "user", "content": "word " * 80}, {"role": "assistant", "content": "Yes."}]}
UNASKED = {"messages": [{"role": "system", "content": "Be short."}, {"role": "assistant", "content": "Hello."}]}


def test_a_prompt_is_what_a_server_would_answer(model: Store) -> None:  # noqa: F811
    renderer = renderer_of(model, stage_of("prompts"))
    prompts = prompt_rows(documents_of(QUESTION), renderer.tokenizer, renderer.stage)
    [row] = prompts.table.to_pylist()
    turns = QUESTION["messages"][:1]
    served = renderer.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert row["input_ids"] == served["input_ids"]
    assert json.loads(row["messages"]) == turns
    assert row["answer"] == "Acidity."


def test_what_cannot_be_asked_is_set_aside_with_its_place(model: Store) -> None:  # noqa: F811
    renderer = renderer_of(model, stage_of("prompts"))
    prompts = prompt_rows(documents_of(LONG, QUESTION, UNASKED), renderer.tokenizer, renderer.stage)
    assert prompts.table.num_rows == 1
    rejected = {row["uri"]: row["reason"] for row in prompts.rejected.to_pylist()}
    assert rejected == {"a.jsonl#1": "too_long", "a.jsonl#3": "no_prompt"}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_pairs_and_conversations_give_prompts(model: Store, split: str) -> None:  # noqa: F811
    stage = stage_of("prompts")
    pair = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
    documents = documents_of(pair, QUESTION)
    documents = documents.append_column("split", [["train", "heldout"]])
    built = build_rows(stage, documents, split, renderer_of(model, stage).tokenizer, frozenset({0}), 0)
    assert built.rows["answer"].to_pylist() == (["This."] if split == "train" else ["Acidity."])
