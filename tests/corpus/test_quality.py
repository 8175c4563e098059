"""Every score by hand on tiny texts, the rules' directions, presets and overrides, languages, scripts without spaces."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.loader import ConfigError, load_run
from configs.schema.quality import LANGUAGES, PRESETS, RULES, Quality, published
from jobs.corpus.language import confidence, identify, sample
from jobs.corpus.quality import BrokenRule, breaks, broken_rules, judge, score, score_of, unjudged_rules
from jobs.corpus.repetition import gram_repetition
from jobs.corpus.words import count_sentences, split_words

ENGLISH = "The cells that divide have to be fed with sugar. "
CHINESE = "细胞是生物体基本的结构和功能单位。它们分裂。"

RATIOS = (
    "mean_word_length",
    "hashes_per_word",
    "ellipses_per_word",
    "newlines_per_word",
    "top_2_gram",
    "top_3_gram",
    "top_4_gram",
)
COUNTS = ("words", "stop_words", "sentences")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(n=5).", ["(", "n=5", ")", "."]),
        ("well-known IL-6/IL-8", ["well", "-", "known", "IL-6", "/", "IL-8"]),
        ("5mg at 37°C, 95%", ["5", "mg", "at", "37", "°", "C", ",", "95", "%"]),
        ("don't cannot it's Dr. e.g. (e.g.", ["do", "n't", "can", "not", "it", "'s", "Dr.", "e.g.", "(", "e.g."]),
        ("(don't), (i.e.)", ["(", "do", "n't", ")", ",", "(", "i.e.", ")"]),
        ("of DNA. vitamin A. x... cells.The", ["of", "DNA", ".", "vitamin", "A.", "x", "...", "cells", ".", "The"]),
        ("3.5 http://a.org/b-c,", ["3.5", "http://a.org/b-c", ","]),
        ("+5 + CD4+ $3", ["+5", "+", "CD4", "+", "$", "3"]),
        ("a" * 1001 + ".", ["a" * 1001 + "."]),
        (" \n ", []),
    ],
)
def test_words_are_those_of_the_tokenizer_that_the_thresholds_were_used_with(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_a_sentence_begins_after_the_end_of_another() -> None:
    assert count_sentences(split_words("It is 3.5 (e.g. here). Is it? No!!")) == 3
    assert count_sentences(split_words('He said "yes." Then')) == 2  # the quote still belongs to the first
    assert count_sentences([]) == 1


def test_words_by_hand() -> None:
    found = score("# The 12 ... of\nit – …")  # noqa: RUF001
    # Words with marks: # The 12 ... of it – …  = 8; without: The 12 of it.
    assert found["words"] == 4
    assert found["mean_word_length"] == (3 + 2 + 2 + 2) / 4
    assert found["hashes_per_word"] == 1 / 8
    assert found["ellipses_per_word"] == 2 / 8
    assert found["words_with_letter"] == 3 / 8
    assert found["stop_words"] == 1  # `of`; `The` is no `the`
    assert found["newlines_per_word"] == 1 / 8


def test_lines_by_hand() -> None:
    text = "- one\n  • two …\nthree...  \n\nIt is long enough to be no short line。"
    found = score(text)
    assert found["bullet_lines"] == 2 / 5 and found["ellipsis_lines"] == 2 / 5
    assert found["punctuated_lines"] == 1 / 4  # three...  ends with spaces; the blank line is none
    assert score(text.replace("  \n", "\n"))["punctuated_lines"] == 2 / 4
    assert found["short_lines"] == 3 / 4
    assert score("x" * 30)["short_lines"] == 1 and score("x" * 31)["short_lines"] == 0


def test_repeated_lines_and_paragraphs_by_hand() -> None:
    found = score("ab\nc\n\nab\nc\n\nab")
    # Lines ab c ab c ab: three again, of 2 + 1 + 2 characters; paragraphs "ab\nc" twice and "ab".
    assert found["duplicate_lines"] == 3 / 5 and found["duplicate_line_characters"] == 5 / 14
    assert found["duplicate_paragraphs"] == 1 / 3 and found["duplicate_paragraph_characters"] == 4 / 14
    assert found["repeated_line_characters"] == 5 / 8  # FineWeb leaves the line ends out
    around = score("\n\na\n\nb\n\n")  # empty lines around are no paragraphs, but two empty lines
    assert around["duplicate_paragraphs"] == 0 and around["duplicate_lines"] == 1 / 4


def test_grams_by_hand() -> None:
    words = ["a", "bb", "a", "bb", "a", "c"]
    found = gram_repetition(words, 13)
    assert found["top_2_gram"] == len("a bb") * 2 / 13  # `bb a` is as frequent and comes later
    assert found["top_3_gram"] == len("a bb a") * 2 / 13  # its places overlap
    assert found["top_4_gram"] == len("a bb a bb") / 13  # none is repeated: the first
    assert found["duplicate_5_gram"] == 0
    words = [*"abcdef", *"abcdef", *"abcde"]
    found = gram_repetition(words, 33)
    # Again at 6 (abcde) and, past it, at 11 (fabcd, as at 5).
    assert found["duplicate_5_gram"] == 10 / 33
    assert found["duplicate_6_gram"] == 6 / 33
    assert found["duplicate_10_gram"] == 10 / 33  # at 6 to 15
    assert gram_repetition([*"abcdefghij", "x", *"abcdefghij"], 41)["duplicate_10_gram"] == 10 / 41
    assert gram_repetition(["a"], 1) == dict.fromkeys(found, 0.0)
    assert gram_repetition([], 0) == dict.fromkeys(found, 0.0)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.sampled_from("ab"), max_size=40))
def test_grams_are_those_of_a_walk_over_all_places(words: list[str]) -> None:
    found = gram_repetition(words, max(sum(map(len, words)), 1))
    for n in range(5, 11):
        seen, place, characters = set(), 0, 0
        while place + n <= len(words):
            gram = tuple(words[place : place + n])
            characters, place = (characters + n, place + n) if gram in seen else (characters, place + 1)
            seen.add(gram)
        assert found[f"duplicate_{n}_gram"] == characters / max(len(words), 1)


def test_c4_cuts_every_line_for_its_first_reason() -> None:
    lines = [
        "Enable JavaScript to read this.", "You accept our Cookie Policy here.", "Too short.", "There is no end here",
        "It trails off at the...", "x" * 1001 + " is too long.", "This stays [12]. And this, too.", "Lorem ipsum dolor sit.",
        'He wrote if (x) { y } "so."', "{",
    ]  # fmt: skip
    found = score("\n".join(lines))
    assert (
        found["javascript_lines"] == found["policy_lines"] == found["few_word_lines"] == found["long_word_lines"] == 0.1
    )
    assert found["unpunctuated_lines"] == 0.3
    assert found["lorem_ipsum_lines"] == 0.1
    assert found["brace_lines"] == 0.1  # the line of one brace is cut out before it is looked at
    assert found["sentences"] == 2 + 1 + 1
    assert score("Read this here [edit]")["unpunctuated_lines"] == 1
    assert score("Read this here.[edit]")["unpunctuated_lines"] == 0
    assert score("a[1]b[]c[x][citation needed]")["citation_characters"] == (3 + 2 + 17) / 28


def test_every_rule_has_a_score() -> None:
    found = score(ENGLISH)
    assert {score_of(rule) for rule in RULES} - found.keys() == {"language_confidence"}
    assert found.keys() - {score_of(rule) for rule in RULES} == {"unspaced_characters"}


@settings(deadline=None)
@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from(" \n\r\t.…#-•{[1]aThe細ไ\u2028\x1c\x00")), max_size=80)
)
def test_no_text_is_too_strange(text: str) -> None:
    found = score(text)
    assert found == score(text)
    for name, value in found.items():
        assert math.isfinite(value) and value >= 0, name
        if name not in RATIOS and name not in COUNTS:
            assert value <= 1, name
    verdict = judge(text, Quality(presets=list(PRESETS)))
    assert [broken.rule for broken in verdict.broken] == [
        rule for rule in RULES if rule in {broken.rule for broken in verdict.broken}
    ]
    assert {broken.rule for broken in verdict.broken}.isdisjoint(verdict.unjudged)


def test_a_value_at_its_threshold_is_good() -> None:
    quality = Quality(min_words=3, max_top_2_gram=0.5, max_words=4)
    assert broken_rules({"words": 3.0, "top_2_gram": 0.5}, quality) == []
    assert broken_rules({"words": 2.0, "top_2_gram": 0.51}, quality) == [
        BrokenRule("min_words", 2.0, 3.0), BrokenRule("max_top_2_gram", 0.51, 0.5),
    ]  # fmt: skip
    assert broken_rules({"words": 5.0, "top_2_gram": 0.0}, quality) == [BrokenRule("max_words", 5.0, 4.0)]
    assert breaks("min_words", 1, 2) and not breaks("max_words", 1, 2)


def test_nothing_gates_unless_it_is_asked_for() -> None:
    assert Quality().thresholds == {} and judge("{", Quality()).broken == []


def test_presets_are_the_published_numbers_and_single_rules_have_the_last_word() -> None:
    gopher = Quality(presets=["gopher"]).thresholds
    assert len(gopher) == 23 and (gopher["min_words"], gopher["max_words"]) == (50, 100_000)
    assert [gopher[f"max_top_{n}_gram"] for n in (2, 3, 4)] == [0.20, 0.18, 0.16]
    assert [gopher[f"max_duplicate_{n}_gram"] for n in range(5, 11)] == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert published("c4") == {"min_sentences": 5, "max_lorem_ipsum_lines": 0, "max_brace_lines": 0}
    assert published("fineweb") == {
        "min_punctuated_lines": 0.12, "max_short_lines": 0.67, "max_repeated_line_characters": 0.01, "max_newlines_per_word": 0.3,
    }  # fmt: skip
    mine = Quality.model_validate(
        {"presets": ["gopher", "c4"], "max_brace_lines": None, "min_words": 20, "max_policy_lines": 0.5}
    )
    expected = gopher | {"min_sentences": 5.0, "max_lorem_ipsum_lines": 0.0, "min_words": 20.0, "max_policy_lines": 0.5}
    assert mine.thresholds == expected and list(mine.thresholds) == [rule for rule in RULES if rule in expected]
    assert Quality.model_validate(mine.model_dump(mode="json")).thresholds == mine.thresholds  # printed and read again


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_word": 3}, "Extra inputs"),
        ({"presets": ["gofer"]}, "'gopher', 'c4' or 'fineweb'"),
        ({"presets": "gopher"}, "valid list"),
        ({"max_short_lines": 1.5}, "less than or equal to 1"),
        ({"min_words": -1}, "greater than or equal to 0"),
        ({"min_words": 5, "max_words": 4}, "no document would be left"),
        ({"presets": ["gopher"], "max_words": 20}, "min_words 50 is above max_words 20"),
        ({"languages": ["eng"]}, "did you mean 'en'"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Quality.model_validate(values)


def test_an_unknown_rule_is_answered_with_the_nearest(tmp_path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: x\nstages:\n  c:\n    stage: corpus\n    sources:\n      s:\n        path: x\n        licence: MIT\n"
        "        quality:\n          max_top_2_grams: 0.2\n"
    )
    with pytest.raises(ConfigError, match=r"run.yaml:10: unknown key .*did you mean `max_top_2_gram`"):
        load_run(str(config))


def test_the_languages_of_the_config_are_those_of_the_model() -> None:
    assert identify("").keys() == LANGUAGES


def test_language_gates_by_how_probable_the_allowed_ones_are() -> None:
    german = "Die Zellen, die sich teilen, müssen mit Zucker gefüttert werden. " * 3
    assert judge(ENGLISH * 3, Quality(languages=["en"])).broken == []
    assert judge(german, Quality(languages=["en", "de"])).broken == []
    (broken,) = judge(german, Quality(languages=["en"])).broken
    assert broken.rule == "min_language_confidence" and broken.value < 0.01 and broken.threshold == 0.5
    assert confidence({"zh": 0.75, "wuu": 0.25, "en": 0.0}, ["zh", "wuu"]) == 1
    assert [judge(CHINESE * 3, Quality(languages=[code])).broken == [] for code in ("zh", "en")] == [True, False]


def test_a_long_text_is_heard_at_its_start_middle_and_end() -> None:
    heard = sample("s" * 2000 + "m" * 2000 + "e" * 2000)
    assert [heard.count(letter) for letter in "sme"] == [334, 334, 334]
    assert sample("s" * 1000) == "s" * 1000


def test_rules_about_words_do_not_judge_a_script_without_spaces_and_say_so() -> None:
    quality = Quality(presets=["gopher", "c4", "fineweb"])
    verdict = judge(CHINESE * 30, quality)
    # What is left is about lines and characters: it is one line that ends in its own full stop.
    assert verdict.broken == []
    assert {"min_words", "max_top_2_gram", "max_duplicate_10_gram", "min_sentences", "max_newlines_per_word"} < set(
        verdict.unjudged
    )
    assert {"max_duplicate_lines", "max_short_lines", "min_punctuated_lines"}.isdisjoint(verdict.unjudged)
    repeated = judge((CHINESE * 2 + "\n") * 30, quality)
    assert "max_duplicate_lines" in {broken.rule for broken in repeated.broken}
    assert unjudged_rules(score("A word of Chinese (細胞) is no Chinese text."), quality) == []
    assert unjudged_rules(score("세포는 생물체의 기본 단위이다."), quality) == []  # Korean has spaces
