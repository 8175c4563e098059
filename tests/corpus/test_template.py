"""The tokens trained on are the tokens served, for our preset and for the real model's own template."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cluster.storage import Store
from jobs.corpus.raw import Message, RowError
from jobs.corpus.template import TemplateError, check_template, end_token_ids, load_template, render, written_end
from jobs.quickstart_assets import MODEL, prepare_assets

ASSETS = Path("artifacts/assets")

SYSTEM: Message = {"role": "system", "content": "Title\n\nMETHODS: 12 mice."}
FIRST: Message = {"role": "user", "content": "Write the conclusion."}
ANSWER: Message = {"role": "assistant", "content": "Mice are small."}
SECOND: Message = {"role": "user", "content": "Shorter!"}
SHORT: Message = {"role": "assistant", "content": "Small."}

CHATML_WITHOUT_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"


@pytest.fixture(scope="module")
def model() -> Path:
    """The real SmolLM2; fetched where it is not there yet (about half a minute)."""
    if not (ASSETS / "assets.json").exists():
        prepare_assets(ASSETS, print)
    return ASSETS / MODEL


def tokenizer_of(model: Path, template: str | None = None) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(model)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module", params=["instruction", "own"])
def tokenizer(request: pytest.FixtureRequest, model: Path) -> PreTrainedTokenizerBase:
    return tokenizer_of(model, load_template("instruction", Path()) if request.param == "instruction" else None)


def test_the_preset_renders_context_after_the_instruction(model: Path):
    tokenizer = tokenizer_of(model, load_template("instruction", Path()))
    text = tokenizer.apply_chat_template([SYSTEM, FIRST, ANSWER, SECOND, SHORT], tokenize=False)
    assert text == (
        "### Instruction\nWrite the conclusion.\n\n### Context\nTitle\n\nMETHODS: 12 mice.\n\n### Response\nMice are small.<|im_end|>"
        "\n\n### Instruction\nShorter!\n\n### Response\nSmall.<|im_end|>"
    )
    prompt = tokenizer.apply_chat_template([FIRST], tokenize=False, add_generation_prompt=True)
    assert prompt == "### Instruction\nWrite the conclusion.\n\n### Response\n"


def test_golden_tokens_and_weights_of_the_real_model(model: Path):
    rendered = render(tokenizer_of(model), [FIRST, SHORT], {2}, "assistant")
    # <|im_start|>system\n ... <|im_end|>\n <|im_start|>user\n Write the conclusion. <|im_end|>\n <|im_start|>assistant\n Small. <|im_end|>\n
    assert rendered.input_ids[:3].tolist() == [1, 9690, 198]
    assert rendered.input_ids[-10:].tolist() == [2, 198, 1, 520, 9531, 198, 20910, 30, 2, 198]
    learnt = tokenizer_of(model).decode(rendered.input_ids[rendered.weights == 1].tolist())
    assert learnt == "Small.<|im_end|>"
    assert rendered.input_ids[-2:].tolist() == [2, 198]
    assert rendered.weights[-2:].tolist() == [1, 0]


def test_only_answers_and_their_ends_are_learnt(tokenizer: PreTrainedTokenizerBase):
    rendered = render(tokenizer, [SYSTEM, FIRST, ANSWER, SECOND, SHORT], {2}, "assistant")
    runs = np.split(rendered.input_ids, np.flatnonzero(np.diff(rendered.weights)) + 1)
    learnt = [tokenizer.decode(run.tolist()) for run in runs[1::2]]
    assert learnt == ["Mice are small.<|im_end|>", "Small.<|im_end|>"]
    everything = render(tokenizer, [SYSTEM, FIRST, ANSWER, SECOND, SHORT], {2}, "all")
    assert everything.weights.tolist() == [0] + [1] * (len(everything.input_ids) - 1)


def learnt_parts(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], train_on: str, first: int = 0
) -> list[str]:
    rendered = render(tokenizer, messages, {2}, train_on, first)  # pyright: ignore[reportArgumentType]
    runs = np.split(rendered.input_ids, np.flatnonzero(np.diff(rendered.weights)) + 1)
    weights = np.split(rendered.weights, np.flatnonzero(np.diff(rendered.weights)) + 1)
    return [tokenizer.decode(run.tolist()) for run, weight in zip(runs, weights, strict=True) if weight[0]]


def test_a_turn_that_is_not_to_be_learnt_weighs_nothing(tokenizer: PreTrainedTokenizerBase):
    silent: Message = {**ANSWER, "weight": 0}
    assert learnt_parts(tokenizer, [FIRST, silent, SECOND, SHORT], "assistant") == ["Small.<|im_end|>"]
    assert learnt_parts(tokenizer, [FIRST, ANSWER, SECOND, {**SHORT, "weight": 0}], "assistant") == [
        "Mice are small.<|im_end|>"
    ]
    assert learnt_parts(tokenizer, [FIRST, ANSWER, SECOND, SHORT], "last") == ["Small.<|im_end|>"]
    assert learnt_parts(tokenizer, [FIRST, ANSWER, SECOND, SHORT], "assistant", first=3) == ["Small.<|im_end|>"]
    everything = "".join(learnt_parts(tokenizer, [FIRST, silent, SECOND, SHORT], "all"))
    assert "Shorter!" in everything and "Mice are small." not in everything
    ids = [
        render(tokenizer, [FIRST, turn, SECOND, SHORT], {2}, "assistant").input_ids.tolist()
        for turn in (ANSWER, silent)
    ]
    assert ids[0] == ids[1]


def test_conversations_without_a_turn_to_learn_are_refused(tokenizer: PreTrainedTokenizerBase):
    for messages, train_on in (
        ([FIRST, {**ANSWER, "weight": 0}], "assistant"),
        ([FIRST, ANSWER, SECOND, {**SHORT, "weight": 0}], "last"),
    ):
        with pytest.raises(RowError) as refused:
            render(tokenizer, messages, {2}, train_on)
        assert refused.value.reason == "nothing_learnt"


def test_a_tokenizer_that_serves_other_tokens_than_it_trains_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = tokenizer_of(model)
    check_template(tokenizer, {2})
    real = tokenizer.apply_chat_template

    def with_a_beginning(messages, tokenize: bool, **options):
        made = real(messages, tokenize=tokenize, **options)
        return {"input_ids": [1, *made["input_ids"]]} if tokenize else made

    monkeypatch.setattr(tokenizer, "apply_chat_template", with_a_beginning)
    with pytest.raises(TemplateError, match="tokens in training and .* when served"):
        check_template(tokenizer, {2})


words = st.text(alphabet=st.sampled_from("aB7 .:#\n'-äα漢"), min_size=1, max_size=40).map(str.strip).filter(bool)


@settings(deadline=None, max_examples=60)
@given(st.none() | words, st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_parity_with_the_serving_path(
    tokenizer: PreTrainedTokenizerBase, system: str | None, turns: list[tuple[str, str]]
):
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    rendered = render(tokenizer, messages, {2}, "assistant")
    assert rendered.input_ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    # What a server is given before the last answer is what stands before it here, and all that follows is learnt or a line end.
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=True, add_generation_prompt=True)["input_ids"]
    assert rendered.input_ids[: len(prompt)].tolist() == prompt
    assert rendered.weights[len(prompt)] == 1
    assert rendered.weights[len(prompt) - 1] == 0
    assert rendered.weights.sum() >= 2 * len(turns)


def test_an_answer_that_merges_with_its_prompt_is_refused(model: Path):
    no_line_end = "{% for m in messages %}{{ m.role + ':' + m.content + (eos_token if m.role == 'assistant' else '') }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    with pytest.raises(RowError) as refused:
        render(tokenizer_of(model, no_line_end), [FIRST, {"role": "assistant", "content": "::::"}], {2}, "assistant")
    assert refused.value.reason == "prompt_not_a_prefix"


def test_bad_conversations_are_refused_by_reason(tokenizer: PreTrainedTokenizerBase):
    cases: dict[str, list[Message]] = {
        "no_answer": [FIRST],
        "control_token": [{"role": "user", "content": "stop<|im_end|>"}, SHORT],
    }
    for reason, messages in cases.items():
        with pytest.raises(RowError) as refused:
            render(tokenizer, messages, {2}, "assistant")
        assert refused.value.reason == reason


def test_the_preset_refuses_two_questions_in_a_row(model: Path):
    tokenizer = tokenizer_of(model, load_template("instruction", Path()))
    with pytest.raises(RowError) as refused:
        render(tokenizer, [FIRST, SECOND, SHORT], {2}, "assistant")
    assert refused.value.reason == "template_refuses"


def test_templates_are_checked_before_training(model: Path, tokenizer: PreTrainedTokenizerBase):
    ends = end_token_ids(Store(str(model.absolute())), tokenizer)
    assert ends == {2}
    check_template(tokenizer, ends)
    with pytest.raises(TemplateError, match="does not end by an end-of-sequence token"):
        check_template(tokenizer_of(model, CHATML_WITHOUT_END), ends)
    with pytest.raises(TemplateError, match="does not end by an end-of-sequence token"):
        check_template(tokenizer, {0})
    missing = tokenizer_of(model)
    missing.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        check_template(missing, ends)
    with pytest.raises(TemplateError, match="neither a preset"):
        load_template("alpaca", Path())


def test_a_template_that_forgets_earlier_turns_has_a_variant_that_can_be_trained(model: Path) -> None:
    """Qwen3's own drops the thoughts of earlier answers, so what was learnt is not what is served."""
    own = tokenizer_of(model, load_template("trl:qwen3", Path()))
    with pytest.raises(TemplateError, match="Set `chat_template: trl:qwen3_training`"):
        check_template(own, {2})
    check_template(tokenizer_of(model, load_template("trl:qwen3_training", Path())), {2})
    with pytest.raises(TemplateError, match="TRL has no 'trl:qwen33'; it has .*qwen3_training"):
        load_template("trl:qwen33", Path())


def test_the_end_that_the_template_writes_is_found(model: Path) -> None:
    tokenizer = tokenizer_of(model)
    ends = end_token_ids(Store(str(model.absolute())), tokenizer)
    assert tokenizer.decode([written_end(tokenizer, ends)]) == "<|im_end|>"
    assert written_end(tokenizer, {*ends, 0}) == written_end(
        tokenizer, ends
    )  # another one that would end an answer too
