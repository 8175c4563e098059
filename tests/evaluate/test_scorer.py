"""What a model scores and answers, against transformers' own loss and generation on a tiny model (fp32)."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.storage import Store
from configs.schema.evaluation import HeldoutSet
from jobs.corpus.template import PRESETS
from jobs.evaluate.heldout import EvaluationError, HeldoutDocument, first_documents, heldout_rows
from jobs.evaluate.scorer import Answer, ScorerTask, SetScores, score_model
from tests.world.tiny_model import SENTENCES, write_tiny_model

ANSWERED = [
    {"role": "user", "content": "Write the conclusion."},
    {"role": "assistant", "content": "The heart pumps blood über the arteries."},
]
DOCUMENTS = [
    HeldoutDocument(-5, " ".join(SENTENCES[:4]), None),
    HeldoutDocument(2, "Ünïcode: " + SENTENCES[5], ANSWERED),
    HeldoutDocument(9, " ".join(SENTENCES), [*ANSWERED[:1], {"role": "assistant", "content": SENTENCES[7]}]),
]
TEXT = HeldoutSet(corpus="corpus", rows="text", documents=3, tokens=64)
MESSAGES = HeldoutSet(corpus="corpus", rows="messages", documents=2, tokens=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_model(tmp_path_factory.mktemp("model"))
    (path / "chat_template.jinja").write_text(PRESETS["instruction"].read_text())
    return path


@pytest.fixture(scope="module")
def results(model: Path) -> list[SetScores | Answer]:
    sets = {"text": (TEXT, DOCUMENTS), "messages": (MESSAGES, DOCUMENTS[1:])}
    task = ScorerTask(Store(str(model)), "fp32", 1, sets, prompts=DOCUMENTS[1:], answer_tokens=12)
    return list(score_model(task))


def test_text_equals_the_loss_of_transformers(model: Path, results: list[SetScores | Answer]):
    tokenizer = AutoTokenizer.from_pretrained(model)
    causal_lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    scored = results[0]
    assert isinstance(scored, SetScores) and scored.set_name == "text"
    for document, score in zip(DOCUMENTS, scored.scores, strict=True):
        input_ids = torch.tensor([tokenizer(document.text)["input_ids"][:64]])
        with torch.no_grad():
            loss = causal_lm(input_ids=input_ids, labels=input_ids).loss.item()
        assert score.document_id == document.document_id
        assert score.tokens == input_ids.shape[1] - 1
        assert score.nats / score.tokens == pytest.approx(loss, abs=1e-5)


def test_messages_equal_the_loss_of_transformers_on_the_answer(model: Path, results: list[SetScores | Answer]):
    tokenizer = AutoTokenizer.from_pretrained(model)
    causal_lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    scored = results[1]
    assert isinstance(scored, SetScores) and scored.set_name == "messages"
    for document, score in zip(DOCUMENTS[1:], scored.scores, strict=True):
        answer = document.messages[-1]["content"]
        prompt = tokenizer(f"### Instruction\n{ANSWERED[0]['content']}\n\n### Response\n")["input_ids"]
        whole = torch.tensor([prompt + tokenizer(answer + "<|endoftext|>")["input_ids"]])
        labels = whole.clone()
        labels[0, : len(prompt)] = -100
        with torch.no_grad():
            loss = causal_lm(input_ids=whole, labels=labels).loss.item()
        assert score.tokens == whole.shape[1] - len(prompt)
        assert score.nats / score.tokens == pytest.approx(loss, abs=1e-5)
        assert score.bytes == len(answer.encode()), "the end of sequence adds nats and no bytes"


def test_bytes_of_a_cut_text_are_those_of_the_scored_tokens(model: Path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "The heart pumps blood."
    whole = tokenizer(text)["input_ids"]
    first = tokenizer.decode(whole[:1])
    document = HeldoutDocument(1, text, None)
    (row,) = heldout_rows([document], TEXT, tokenizer, {0})
    assert row.row.weights == [0.0] + [1.0] * (len(whole) - 1)
    assert row.bytes == len(text) - len(first)
    (cut,) = heldout_rows([document], TEXT.model_copy(update={"tokens": 3}), tokenizer, {0})
    assert cut.row.input_ids == whole[:3]
    assert cut.bytes == len(tokenizer.decode(whole[1:3]))


def test_answers_are_the_most_likely_tokens(model: Path, results: list[SetScores | Answer]):
    """Without a cache and token by token: argmax of the whole sequence's logits."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    causal_lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    answers = [result for result in results if isinstance(result, Answer)]
    assert [answer.document_id for answer in answers] == [2, 9]
    tokens = tokenizer.apply_chat_template(ANSWERED[:1], add_generation_prompt=True)["input_ids"]
    generated: list[int] = []
    while len(generated) < 12 and generated[-1:] != [0]:
        with torch.no_grad():
            generated.append(int(causal_lm(input_ids=torch.tensor([tokens + generated])).logits[0, -1].argmax()))
    assert answers[0].tokens == len(generated)
    assert answers[0].ended == (generated[-1] == 0)
    assert answers[0].text == tokenizer.decode(generated, skip_special_tokens=True).strip()


def test_scoring_twice_gives_the_same_bits(model: Path, results: list[SetScores | Answer]):
    task = ScorerTask(Store(str(model)), "fp32", 1, {"text": (TEXT, DOCUMENTS)}, prompts=[], answer_tokens=0)
    assert list(score_model(task)) == results[:1]


def test_damaged_weights_are_named(model: Path, tmp_path: Path):
    causal_lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    causal_lm.model.norm.weight.data[:] = math.nan
    causal_lm.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    task = ScorerTask(Store(str(tmp_path)), "fp32", 1, {"text": (TEXT, DOCUMENTS)}, prompts=[], answer_tokens=0)
    with pytest.raises(EvaluationError, match="loss of nan on document -5"):
        list(score_model(task))


def heldout_table() -> pa.Table:
    return pa.table(
        {
            "document_id": [document.document_id for document in DOCUMENTS],
            "text": [document.text for document in DOCUMENTS],
            "messages": [
                None if document.messages is None else json.dumps(document.messages) for document in DOCUMENTS
            ],
        }
    )


def test_the_first_documents_by_id():
    assert first_documents(heldout_table(), "text", 2, "sets.a.documents") == DOCUMENTS[:2]
    assert first_documents(heldout_table(), "messages", 2, "sets.a.documents") == DOCUMENTS[1:]
    with pytest.raises(
        EvaluationError, match=r"sets.a.documents: 3 held-out conversations asked for, the corpus has 2"
    ):
        first_documents(heldout_table(), "messages", 3, "sets.a.documents")


def test_prompts_longer_than_the_cut_are_told(model: Path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    with pytest.raises(EvaluationError, match="raise `tokens`"):
        heldout_rows(DOCUMENTS[1:], MESSAGES.model_copy(update={"tokens": 4}), tokenizer, {0})
