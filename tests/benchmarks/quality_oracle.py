"""Do our quality rules decide as datatrove's filters do? Rule by rule, on real texts.

    python tests/benchmarks/quality_oracle.py export texts.jsonl                  in our environment: abstracts and web pages
    PYTHONPATH=. python tests/benchmarks/quality_oracle.py compare texts.jsonl    in one with `datatrove spacy pydantic py3langid`

datatrove is no dependency of ours; its numbers are made here and nowhere else.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ASSETS = Path("artifacts/assets")


def export(path: Path) -> None:
    from configs.schema.corpus import Cleaning, Source
    from jobs.corpus.clean import clean_document
    from jobs.corpus.raw import Raw, RowError
    from jobs.corpus.readers import read_file

    files = [*sorted(ASSETS.glob("pubmed*/*.xml.gz")), *sorted(ASSETS.glob("general/*.jsonl"))]
    with path.open("w") as out:
        for file in files:
            source = Source(path=str(file), format="pubmed" if file.suffix == ".gz" else "jsonl", licence="none")
            for row in read_file(str(file.resolve()), file.name, source):
                try:
                    if isinstance(row, Raw):
                        text = clean_document(row, Cleaning()).text
                        out.write(json.dumps({"from": file.name, "text": text}) + "\n")
                except RowError:
                    continue  # too short to become a document


def single_rules() -> dict[str, Callable[[Any], Any]]:
    """datatrove's filters by our rule: each with that rule alone."""
    from datatrove.pipeline.filters.c4_filters import C4QualityFilter
    from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
    from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
    from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

    quality = {
        "min_words": "min_doc_words", "max_words": "max_doc_words", "min_mean_word_length": "min_avg_word_length",
        "max_mean_word_length": "max_avg_word_length", "max_bullet_lines": "max_bullet_lines_ratio",
        "max_ellipsis_lines": "max_ellipsis_lines_ratio", "min_words_with_letter": "max_non_alpha_words_ratio",
        "min_stop_words": "min_stop_words",
    }  # fmt: skip
    none = dict.fromkeys([*quality.values(), "max_symbol_word_ratio"])
    defaults = GopherQualityFilter().__dict__
    rules = {rule: GopherQualityFilter(**{**none, name: defaults[name]}).filter for rule, name in quality.items()}
    symbols = GopherQualityFilter(**{**none, "max_symbol_word_ratio": 0.1}).filter
    rules["max_hashes_per_word"] = lambda doc: symbols(_without(doc, "...", "…"))
    rules["max_ellipses_per_word"] = lambda doc: symbols(_without(doc, "#"))
    repetition = {
        "max_duplicate_lines": "dup_line_frac", "max_duplicate_paragraphs": "dup_para_frac",
        "max_duplicate_line_characters": "dup_line_char_frac", "max_duplicate_paragraph_characters": "dup_para_char_frac",
    }  # fmt: skip
    none = {**dict.fromkeys(repetition.values()), "top_n_grams": (), "dup_n_grams": ()}
    whole = GopherRepetitionFilter()
    for rule, name in repetition.items():
        rules[rule] = GopherRepetitionFilter(**{**none, name: getattr(whole, name)}).filter
    for n, share in whole.top_n_grams:
        rules[f"max_top_{n}_gram"] = GopherRepetitionFilter(**{**none, "top_n_grams": ((n, share),)}).filter
    for n, share in whole.dup_n_grams:
        rules[f"max_duplicate_{n}_gram"] = GopherRepetitionFilter(**{**none, "dup_n_grams": ((n, share),)}).filter
    c4 = {"filter_lorem_ipsum": False, "filter_curly_bracket": False, "min_num_sentences": -1}
    rules["min_sentences"] = C4QualityFilter(**{**c4, "min_num_sentences": 5}).filter
    rules["max_lorem_ipsum_lines"] = C4QualityFilter(**{**c4, "filter_lorem_ipsum": True}).filter
    rules["max_brace_lines"] = C4QualityFilter(**{**c4, "filter_curly_bracket": True}).filter
    fineweb = {"line_punct_thr": 0.0, "short_line_thr": 1e9, "char_duplicates_ratio": 1e9, "new_line_ratio": 1e9}
    for rule, name, value in (
        ("min_punctuated_lines", "line_punct_thr", 0.12), ("max_short_lines", "short_line_thr", 0.67),
        ("max_repeated_line_characters", "char_duplicates_ratio", 0.01), ("max_newlines_per_word", "new_line_ratio", 0.3),
    ):  # fmt: skip
        rules[rule] = FineWebQualityFilter(**{**fineweb, name: value}).filter
    return rules


def _without(doc: Any, *marks: str) -> Any:
    from datatrove.data import Document

    text = doc.text
    for mark in marks:
        text = text.replace(mark, "x" * len(mark))
    return Document(text=text, id="")


def compare(path: Path) -> None:
    from datatrove.data import Document
    from datatrove.utils.text import split_into_words

    from configs.schema.quality import PRESETS, Quality, published
    from jobs.corpus.quality import broken_rules, score
    from jobs.corpus.words import split_words

    rules = single_rules()
    quality = Quality(presets=list(PRESETS))
    assert rules.keys() == quality.thresholds.keys(), rules.keys() ^ quality.thresholds.keys()
    dropped, ours_alone, theirs_alone = Counter(), Counter(), Counter()
    texts = same_words = 0
    for origin, text in _read(path):
        texts += 1
        ours = {broken.rule for broken in broken_rules(score(text), quality)}
        theirs = {rule for rule, keeps in rules.items() if keeps(Document(text=text, id="")) is not True}
        dropped.update(theirs)
        ours_alone.update(ours - theirs)
        theirs_alone.update(theirs - ours)
        same_words += split_words(text) == split_into_words(text)
        for preset in PRESETS:
            names = published(preset).keys()
            dropped[preset] += bool(theirs & names)
            ours_alone[preset] += bool(ours & names) and not theirs & names
            theirs_alone[preset] += bool(theirs & names) and not ours & names
        if ours != theirs:
            print(origin, sorted(ours - theirs), sorted(theirs - ours), repr(text[:60]))
    print(f"{texts} texts, {same_words / texts:.2%} with the same words")
    print(f"{'rule':36}{'dropped':>9}{'only ours':>11}{'only theirs':>13}{'agreement':>11}")
    for rule in (*PRESETS, *rules):
        other = ours_alone[rule] + theirs_alone[rule]
        print(f"{rule:36}{dropped[rule]:9}{ours_alone[rule]:11}{theirs_alone[rule]:13}{1 - other / texts:11.4%}")


def _read(path: Path) -> Iterator[tuple[str, str]]:
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            yield row["from"], row["text"]


if __name__ == "__main__":
    {"export": export, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
