"""Which documents of a source are good enough: rules, their thresholds, and the published sets of both.

A rule is `min_` or `max_` and the name of a score (jobs/corpus/quality.py). One without a threshold does not gate, and none
has one unless a config or a preset gives it: the published numbers were tuned on English web pages, and on other texts they
delete what is wanted (C4's rule about `{` all code, FineWeb's about lines all tables and formulas).
"""

import difflib
from typing import Any, Literal, cast, get_args

from pydantic import Field, field_validator, model_validator

from configs.schema.tree import Fraction, Node

Preset = Literal["gopher", "c4", "fineweb"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

LANGUAGES = frozenset(
    """
    ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy ga gcf
    gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt
    ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv
    sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu zxx
    """.split()  # noqa: SIM905 - to be read
)
"""What py3langid 0.4 tells apart: ISO 639-1 where there is such a code, else 639-3; zxx is no language at all."""


def _share(meaning: str, **published: float) -> Any:
    return _rule(meaning, 1.0, published)


def _number(meaning: str, **published: float) -> Any:
    return _rule(meaning, None, published)


def _rule(meaning: str, largest: float | None, published: dict[str, float]) -> Any:
    """A threshold that is not set; `published` is by preset."""
    named = "".join(f" {preset}: {value:g}." for preset, value in published.items())
    text = f"{meaning}.{named}"
    return Field(default=None, ge=0.0, le=largest, description=text, json_schema_extra={"published": {**published}})


class Quality(Node):
    """Rules that set documents aside. Without any, all scores are computed for reports and nothing is dropped.

    Presets give the published thresholds (arXiv 2112.11446, 1910.10683, 2406.17557, as datatrove 0.10 applies them); a rule
    that is given beside them has the last word, and `null` takes it out.

    Example:
        Quality(presets=["gopher"], max_top_2_gram=0.25, min_stop_words=None, languages=["en"])
    """

    presets: list[Preset] = Field(
        default=[],
        description="gopher: quality and repetition; c4: its rules about whole pages (those about lines are scores here, no "
        "line is cut out); fineweb: the three of its own about lines, and lists. FineWeb itself ran all of these.",
    )

    min_words: float | None = _number("Words that are not punctuation", gopher=50)
    max_words: float | None = _number("Words that are not punctuation", gopher=100_000)
    min_mean_word_length: float | None = _number("Characters of a word, punctuation aside", gopher=3)
    max_mean_word_length: float | None = _number("Characters of a word, punctuation aside", gopher=10)
    max_hashes_per_word: float | None = _number("`#` signs over words", gopher=0.1)
    max_ellipses_per_word: float | None = _number("`...` and `…` over words", gopher=0.1)
    max_bullet_lines: float | None = _share("Lines that begin with `-` or `•`", gopher=0.9)
    max_ellipsis_lines: float | None = _share("Lines that end in `...` or `…`", gopher=0.3)
    min_words_with_letter: float | None = _share("Words with a letter; punctuation counts as words", gopher=0.8)
    min_stop_words: float | None = _number(
        "How many of `the be to of and that have with` occur; for English only", gopher=2
    )

    max_duplicate_lines: float | None = _share("Lines that stood before", gopher=0.3)
    max_duplicate_paragraphs: float | None = _share("Paragraphs that stood before", gopher=0.3)
    max_duplicate_line_characters: float | None = _share("Characters in lines that stood before", gopher=0.2)
    max_duplicate_paragraph_characters: float | None = _share("Characters in paragraphs that stood before", gopher=0.2)
    max_top_2_gram: float | None = _number(
        "Characters of the most frequent 2-gram, all its places, over those of the text; overlapping ones may pass 1",
        gopher=0.20,
    )
    max_top_3_gram: float | None = _number("The same of 3 words", gopher=0.18)
    max_top_4_gram: float | None = _number("The same of 4 words", gopher=0.16)
    max_duplicate_5_gram: float | None = _share("Characters in 5-grams that stood before", gopher=0.15)
    max_duplicate_6_gram: float | None = _share("The same of 6 words", gopher=0.14)
    max_duplicate_7_gram: float | None = _share("The same of 7 words", gopher=0.13)
    max_duplicate_8_gram: float | None = _share("The same of 8 words", gopher=0.12)
    max_duplicate_9_gram: float | None = _share("The same of 9 words", gopher=0.11)
    max_duplicate_10_gram: float | None = _share("The same of 10 words", gopher=0.10)

    min_sentences: float | None = _number("Sentences in the lines that C4 keeps", c4=5)
    max_lorem_ipsum_lines: float | None = _share("Lines with `lorem ipsum`, of three words and an end", c4=0)
    max_brace_lines: float | None = _share("Lines with `{`, of three words and an end; deletes code", c4=0)
    max_long_word_lines: float | None = _share("Lines that C4 cuts out for a word above 1000 characters")
    max_unpunctuated_lines: float | None = _share("Lines that C4 cuts out because they do not end in . ? ! \" or '")
    max_few_word_lines: float | None = _share("Lines that C4 cuts out because they have less than three words")
    max_javascript_lines: float | None = _share("Lines that C4 cuts out for `javascript`")
    max_policy_lines: float | None = _share("Lines that C4 cuts out for cookies, terms of use or a privacy policy")
    max_citation_characters: float | None = _share("Characters in `[1]`, `[edit]` and `[citation needed]`")

    min_punctuated_lines: float | None = _share("Lines that end a sentence, in any script", fineweb=0.12)
    max_short_lines: float | None = _share("Lines of up to 30 characters; deletes tables and formulas", fineweb=0.67)
    max_repeated_line_characters: float | None = _share("Characters in lines that stood before, of all", fineweb=0.01)
    max_newlines_per_word: float | None = _number("Line ends over words", fineweb=0.3)

    languages: list[str] = Field(
        default=[], description="Languages that are kept, e.g. [en, de]; without any, language does not gate."
    )
    min_language_confidence: Fraction = Field(
        default=0.5,
        description="How probable it must be that a text is in one of `languages`, by py3langid on 1000 characters. 0.5: "
        "more likely than not; of 1000 English abstracts the least sure had 0.94, lists of numbers from the web have 0.3. "
        "(FineWeb's 0.65 is for fastText, whose numbers are others.)",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_presets(cls, values: Any) -> Any:
        """Thresholds are written out, so that a config that was printed and is read again means the same."""
        if not isinstance(values, dict) or not isinstance(values.get("presets", []), list):
            return values
        presets: list[Preset] = [name for name in PRESETS if name in values.get("presets", [])]
        return {**{rule: value for name in presets for rule, value in published(name).items()}, **values}

    @model_validator(mode="after")
    def _leaves_something(self) -> "Quality":
        for score in ("words", "mean_word_length"):
            least, most = getattr(self, f"min_{score}"), getattr(self, f"max_{score}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{score} {least:g} is above max_{score} {most:g}: no document would be left")
        return self

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: list[str]) -> list[str]:
        for language in languages:
            if language not in LANGUAGES:
                nearest = difflib.get_close_matches(language, sorted(LANGUAGES), n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "give codes of ISO 639-1 such as en, de, zh"
                raise ValueError(f"{language!r} is no language that can be told apart here; {hint}")
        return languages

    @property
    def thresholds(self) -> dict[str, float]:
        """The rules that gate, in the order of the fields: {"min_words": 50.0, ...}."""
        found = {name: getattr(self, name) for name in RULES}
        if not self.languages:
            del found["min_language_confidence"]
        return {name: float(value) for name, value in found.items() if value is not None}


def published(preset: Preset) -> dict[str, float]:
    """Thresholds of a paper by rule."""
    extras = {name: cast(dict[str, Any], field.json_schema_extra or {}) for name, field in Quality.model_fields.items()}
    by_rule = {name: extra.get("published", {}) for name, extra in extras.items()}
    return {name: thresholds[preset] for name, thresholds in by_rule.items() if preset in thresholds}


RULES = tuple(name for name in Quality.model_fields if name.startswith(("min_", "max_")))
