import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema.corpus import Cleaning
from jobs.corpus.candidates import candidate
from jobs.corpus.clean import clean_document, clean_message, clean_text, collapsed
from jobs.corpus.formats import convert_row
from jobs.corpus.raw import Message, Raw, RowError
from jobs.corpus.refine import Refined


def test_clean_repairs_unicode_and_whitespace():
    assert clean_text("  Gro\u0308ße \t x\r\n \u2028\n\n\ny\x0c ", Cleaning()) == "Größe x\n\ny"
    assert clean_text("a  b\r\n", Cleaning(unicode="none", collapse_whitespace=False)) == "a  b\r\n"


@given(st.text(alphabet=st.sampled_from("a b\n\r\t\u2028\x85\u00a0\u0308o\x0c"), max_size=30))
def test_cleaning_twice_is_cleaning_once(text: str):
    once = clean_text(text, Cleaning())
    assert clean_text(once, Cleaning()) == once


def test_short_documents_and_empty_messages_are_refused():
    with pytest.raises(RowError) as short:
        clean_document(Raw("u", "x" * 199 + " ", None), Cleaning())
    assert short.value.reason == "too_short"
    with pytest.raises(RowError) as empty:
        clean_document(Raw("u", "long enough", [{"role": "user", "content": " "}]), Cleaning(minimum_characters=5))
    assert empty.value.reason == "empty_message"


CODE = "def f(x):\n    if x:\n\n\n        return  1\n\treturn 2"


def test_messages_keep_the_whitespace_that_code_is_made_of():
    messages: list[Message] = [
        {"role": "user", "content": "\n \n  Mend  this:\r\n\r\n\r\n\tx = 1 \r\n"},
        {"role": "assistant", "content": f"    {CODE}  \n", "weight": 1},
    ]
    cleaned = clean_document(Raw("u", "a  text \n", messages, format="messages"), Cleaning(minimum_characters=1))
    assert cleaned.messages == [
        {"role": "user", "content": "  Mend  this:\n\n\n\tx = 1"},
        {"role": "assistant", "content": f"    {CODE}", "weight": 1},
    ]
    assert cleaned.text == "a  text"
    # What a PubMed abstract or a line of JSON says beside a task made of it is a text first.
    assert clean_document(Raw("u", "a  text \n", messages), Cleaning(minimum_characters=1)).text == "a text"


def test_judged_answers_that_differ_in_indentation_stay_two_answers():
    better, worse = "for x in y:\n    a(x)\n    b()", "for x in y:\n    a(x)\nb()"
    row = {"prompt": "Write  the\n\tloop", "chosen": better, "rejected": worse, "margin": 1}
    cleaned = clean_document(convert_row("u", row, "preferences"), Cleaning())
    assert cleaned.judgement is not None
    assert [answer[0]["content"] for answer in cleaned.judgement.answers] == [better, worse]
    assert cleaned.judgement.prompt[0]["content"] == row["prompt"] and cleaned.judgement.margin == 1
    assert cleaned.text == f"{row['prompt']}\n\n{better}"


@given(st.text(alphabet=st.sampled_from("a b\n\r\t\u2028\x85\u00a0\u0308o\x0c"), max_size=30))
def test_cleaning_a_message_twice_is_cleaning_it_once_and_changes_nothing_inside(text: str):
    once = clean_message(text, Cleaning())
    assert clean_message(once, Cleaning()) == once
    assert collapsed(once) == clean_text(text, Cleaning())
    assert clean_message(f"|{text}|", Cleaning(unicode="none")) == f"|{text}|".replace("\r\n", "\n").replace("\r", "\n")
    assert clean_message(text, Cleaning(unicode="none", collapse_whitespace=False)) == text


def test_the_space_that_joins_a_plain_answer_to_its_prompt_is_no_part_of_a_turn():
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": "    return blue"}
    judgement = convert_row("u", row, "preferences").judgement
    assert judgement is not None
    assert [answer[0]["content"] for answer in judgement.answers] == ["blue.", "    return blue"]


def test_prompts_that_differ_in_whitespace_are_on_one_side_of_the_split():
    rows = [{"prompt": prompt, "completion": "A"} for prompt in ("a b\nc", " a  b \r\n c", "a b c")]
    keys = [candidate(Refined(convert_row("u", row, "prompt_completion"), {}), 1)["split_by"] for row in rows]
    assert keys[0] == keys[1] != keys[2]
