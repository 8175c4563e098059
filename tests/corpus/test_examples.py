"""Judged answers as rows of examples: shared prompts, levels, what is cut, what is set aside; the same bytes in any order."""

import hashlib
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.storage import Store
from configs.schema.corpus import Cleaning, ShardsStage
from jobs.corpus.candidates import CANDIDATE_SCHEMA, candidate
from jobs.corpus.clean import clean_document
from jobs.corpus.examples import Examples, Renderer, preference_examples, thumb_examples
from jobs.corpus.formats import convert_row, recognise
from jobs.corpus.raw import Raw
from jobs.corpus.refine import Refined
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
from jobs.corpus.shards import partition_writer
from jobs.corpus.template import load_template
from jobs.records import ExampleRow
from jobs.train.examples import pack_examples, pack_mismatched
from tests.world.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = write_tiny_model(tmp_path_factory.mktemp("chat") / "model")
    (path / "chat_template.jinja").write_text(load_template("instruction", Path()))
    return Store(str(path))


def stage_of(rows: str, **changes: Any) -> ShardsStage:
    values = {"stage": "shards", "corpus": "c", "model": "m", "rows": rows, "context": 64, "shards": 2}
    return ShardsStage.model_validate({**values, **changes})


def documents_of(*rows: dict[str, Any]) -> pa.Table:
    """As they come from the corpus, in the order of the rows."""
    cleaned = [
        clean_document(convert_row(f"a.jsonl#{n}", row, recognise(row)), Cleaning(minimum_characters=1))
        for n, row in enumerate(rows, 1)
    ]
    source = {"source": "people", "licence": "CC0-1.0", "confidentiality": "public"}
    candidates = [{**source, **candidate(Refined(row, {}), 1)} for row in cleaned if isinstance(row, Raw)]
    return pa.Table.from_pylist(candidates, schema=CANDIDATE_SCHEMA)


def renderer_of(model: Store, stage: ShardsStage, template: str | None = None) -> Renderer:
    tokenizer = load_tokenizer.__wrapped__(read_tokenizer_files(model))
    if template is not None:
        tokenizer.chat_template = template
    return Renderer(tokenizer, frozenset({0}), stage)


def segments(row: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
    bounds = pairwise([0, *np.cumsum(row["segment_lengths"]).tolist()])
    return [(row["input_ids"][start:stop], row["weights"][start:stop]) for start, stop in bounds]


def thumb(number: int, label: bool) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "completion": f"Answer {number}.", "label": label}


RANKING = {"prompt": "Which?", "answers": ["worst", "best", "middle", "other middle"], "ranks": [9, 1, 4, 4], "id": 3}


def test_a_ranking_keeps_its_order_and_ties_and_all_answers_share_the_prompt(model: Store) -> None:
    renderer = renderer_of(model, stage_of("preferences"))
    built = preference_examples(documents_of(RANKING), renderer)
    (row,) = built.table.to_pylist()
    assert row["levels"] == [0, 1, 1, 2]
    answers = [renderer.tokenizer.decode([t for t, w in zip(*part, strict=True) if w]) for part in segments(row)]
    assert answers == [f"{text}<|endoftext|>" for text in ("best", "middle", "other middle", "worst")]
    prompt = renderer.tokenizer.apply_chat_template([{"role": "user", "content": "Which?"}], add_generation_prompt=True)
    for ids, length in zip((ids for ids, _ in segments(row)), row["prompt_lengths"], strict=True):
        assert ids[:length] == prompt["input_ids"]
    batch = pack_examples([ExampleRow(**row)])
    assert len(batch.answers.better_P) == 5  # six pairs of four answers, less the tie


def test_earlier_answers_belong_to_the_prompt_and_weigh_nothing(model: Store) -> None:
    talk = [("user", "One?"), ("assistant", "First."), ("user", "Two?")]
    prompt = [{"role": role, "content": content, "weight": 1} for role, content in talk]
    built = preference_examples(
        documents_of({"prompt": prompt, "chosen": "Good.", "rejected": "Bad.", "margin": 0.25}),
        renderer_of(model, stage_of("preferences")),
    )
    (row,) = built.table.to_pylist()
    assert row["margin"] == 0.25 and row["levels"] == [0, 1]
    for (ids, weights), length in zip(segments(row), row["prompt_lengths"], strict=True):
        assert weights == [0.0] * length + [1.0] * (len(ids) - length)


def test_an_answer_that_changes_the_prompts_tokens_is_set_aside(model: Store) -> None:
    # A generation prompt that ends inside a word: before "e" its "th" becomes "the", before a digit it stays.
    merging = (
        "{% for m in messages %}{{ m.role + ' th' + m.content + (eos_token if m.role == 'assistant' else ' ') }}{% endfor %}"
        "{% if add_generation_prompt %}assistant th{% endif %}"
    )
    documents = documents_of(
        {"prompt": "Why?", "chosen": "e trial", "rejected": "5"}, {"prompt": "Why?", "chosen": "4", "rejected": "5"}
    )
    built = preference_examples(documents, renderer_of(model, stage_of("preferences"), merging))
    assert reasons(built) == {"a.jsonl#1": "prompt_not_a_prefix"}
    (row,) = built.table.to_pylist()
    (first, _), (second, _) = segments(row)
    shared = row["prompt_lengths"][0]
    assert row["prompt_lengths"] == [shared, shared] and first[:shared] == second[:shared]


CHATML = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("rows", ["preferences", "thumbs"])
def test_every_answer_ends_at_its_end_token_as_those_that_ppo_samples(model: Store, rows: str) -> None:
    turns = [{"role": "assistant", "content": "One."}, {"role": "user", "content": "And?"}]
    documents = documents_of(
        {"prompt": "Which?", "chosen": "This one.", "rejected": "None."},
        {"prompt": "How?", "chosen": [*turns, {"role": "assistant", "content": "Two."}], "rejected": "So."},
    )
    renderer = renderer_of(model, stage_of(rows), CHATML)
    built = (
        preference_examples(documents, renderer)
        if rows == "preferences"
        else thumb_examples(documents, documents, renderer)
    )
    found = [part for row in built.table.to_pylist() for part in segments(row)]
    # A thumb brings another answer along; a pair is a thumb up and a thumb down.
    assert len(found) == (4 if rows == "preferences" else 8)
    for ids, weights in found:
        assert ids[-1] in renderer.ends and weights[-1] == 1


def reasons(built: Examples) -> dict[str, str]:
    return dict(zip(built.rejected["uri"].to_pylist(), built.rejected["reason"].to_pylist(), strict=True))


def test_what_is_longer_than_the_context_is_cut_and_counted_or_set_aside(model: Store) -> None:
    short, long = (
        {"prompt": "Q?", "chosen": "yes", "rejected": "no"},
        {"prompt": "Q?", "chosen": "x" * 90, "rejected": "y"},
    )
    alike = {"prompt": "Q?", "chosen": "x" * 90 + "1", "rejected": "x" * 90 + "2"}
    drowned = {"prompt": "q" * 90, "chosen": "yes", "rejected": "no"}
    documents = documents_of(short, long, alike, drowned)
    cut = preference_examples(documents, renderer_of(model, stage_of("preferences")))
    assert cut.table.num_rows == 2
    assert max(length for row in cut.table.to_pylist() for length in row["segment_lengths"]) == 64
    assert cut.counts["truncated"] == 1 and cut.counts["lost_tokens"] > 0
    assert reasons(cut) == {"a.jsonl#3": "identical_answers", "a.jsonl#4": "answer_cut_off"}
    kept = preference_examples(documents, renderer_of(model, stage_of("preferences", too_long="quarantine")))
    assert kept.table.num_rows == 1 and kept.counts["truncated"] == 0
    assert reasons(kept) == dict.fromkeys(("a.jsonl#2", "a.jsonl#3", "a.jsonl#4"), "too_long")


def test_a_thumb_brings_an_answer_to_another_prompt(model: Store) -> None:
    documents = documents_of(thumb(1, True), thumb(2, False), {**thumb(3, True), "prompt": "Question 2?"})
    built = thumb_examples(documents, documents, renderer_of(model, stage_of("thumbs")))
    rows = built.table.to_pylist()
    ids = documents["document_id"].to_pylist()
    assert [row["levels"] for row in rows] == [[0, -1], [1, -1], [0, -1]]
    # The next one with another prompt: 1 borrows from 2; 2 skips 3, which asks the same, and borrows from 1; so does 3.
    assert [row["document_ids"] for row in rows] == [[ids[0], ids[1]], [ids[1], ids[0]], [ids[2], ids[0]]]
    own, other = segments(rows[0])
    assert own[0][: rows[0]["prompt_lengths"][0]] == other[0][: rows[0]["prompt_lengths"][1]] and own[0] != other[0]
    examples = [ExampleRow(**row) for row in rows]
    assert pack_examples(examples).answers.level_S.tolist() == [0, 1, 0]
    assert pack_mismatched(examples).answers.level_S.tolist() == [-1, -1, -1]


def test_thumbs_that_all_ask_the_same_have_no_other_answer(model: Store) -> None:
    documents = documents_of(*({**thumb(n, True), "prompt": "Same?"} for n in range(3)))
    built = thumb_examples(documents, documents, renderer_of(model, stage_of("thumbs")))
    assert built.table.num_rows == 0 and set(reasons(built).values()) == {"no_other_answer"}


def test_a_preference_is_a_thumb_up_and_a_thumb_down(model: Store) -> None:
    documents = documents_of(RANKING, thumb(1, True))
    built = thumb_examples(documents, documents, renderer_of(model, stage_of("thumbs")))
    assert [row["levels"][0] for row in built.table.to_pylist()] == [0, 1, 0]


@pytest.mark.parametrize("rows", ["preferences", "thumbs"])
def test_documents_in_any_order_give_the_same_files(model: Store, tmp_path: Path, rows: str) -> None:
    pairs = [{"prompt": f"Question {n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(20)]
    documents = documents_of(*pairs, *(thumb(n, n % 2 == 0) for n in range(20)) if rows == "thumbs" else ())
    split = pa.array(["heldout" if n % 4 == 0 else "train" for n in range(documents.num_rows)])
    documents = documents.append_column("split", split)
    digests = []
    for seed in range(3):
        store = Store(str(tmp_path / str(seed)))
        write = partition_writer(stage_of(rows), store, read_tokenizer_files(model), frozenset({0}), 0)
        report = write(0, documents.take(pa.array(np.random.default_rng(seed).permutation(documents.num_rows))))
        files = {file.name: hashlib.sha256(store.read(file.name)).hexdigest() for file in store.files()}
        digests.append((report, files))
    assert digests[0] == digests[1] == digests[2]
    assert {"train/shard-00000.parquet", "heldout/shard-00000.parquet"} <= set(digests[0][1])


def test_a_held_out_answer_is_never_lent_to_training(model: Store, tmp_path: Path) -> None:
    documents = documents_of(*(thumb(n, True) for n in range(20)))
    split = ["heldout" if n < 10 else "train" for n in range(20)]
    ids = documents["document_id"].to_pylist()
    store = Store(str(tmp_path))
    write = partition_writer(stage_of("thumbs"), store, read_tokenizer_files(model), frozenset({0}), 0)
    write(0, documents.append_column("split", pa.array(split)))
    train = pq.read_table(io.BytesIO(store.read("train/shard-00000.parquet"))).to_pylist()
    assert {owner for row in train for owner in row["document_ids"]} == set(ids[10:])
