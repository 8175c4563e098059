"""A text as the words that quality rules count.

text --whitespace--> chunks --punctuation off both ends, then inside--> words

The published thresholds are used with spaCy's English tokenizer (datatrove), in which punctuation marks are words of their
own: "(n=5)." has four. This is that behaviour for what texts are mostly made of, without emoticons, hours such as "10pm" and
the like: of 30,707 abstracts and web pages 97.5 % have the same words, and no rule decides otherwise about more than 15 of them
(tests/benchmarks/quality_oracle.py). Scripts without spaces between words are left as they stand: whoever counts words asks
`unspaced_share` first.
"""

# ruff: noqa: RUF001, SIM905 - marks that look alike are what this file tells apart; lists of words are to be read as words

import re
import string
import unicodedata
from functools import lru_cache
from itertools import chain

UNSPACED_SHARE = 0.3
"""Of the characters, above which words are not counted. A judgement: Chinese text full of Latin terms and figures is above it,
English text that quotes Chinese below."""

UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana, Han. (Korean has spaces.)"""


def _characters(ranges: str) -> frozenset[str]:
    """ "21 3b-3d" -> {"!", ";", "<", "="}"""
    pairs = [part.partition("-") for part in ranges.split()]
    return frozenset(
        chr(code) for first, _, last in pairs for code in range(int(first, 16), int(last or first, 16) + 1)
    )


SENTENCE_ENDS = _characters(
    """
    21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d5 1803 1809
    1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f 2024 203c-203d 2047-2049 2cf9-2cfb 2e2e
    2e3c 2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe12
    fe15-fe16 fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143
    111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 113d4-113d5 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
    1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44
    16d6e-16d6f 16e98 1bc9f 1da88
    """
)
"""Unicode 16's property Sentence_Terminal (PropList.txt)."""

SYMBOLS = SENTENCE_ENDS | frozenset(string.punctuation) | frozenset("«»´–—’“”„…∶━►、。〈〉《》「」【】％（），：；１～")
"""What makes no word by itself: ASCII, quotes and dashes, full-width forms; the set of datatrove, its full-width 1 too."""

QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪" + QUOTES
PICTURES = (
    "¦©®°№℗™\u2195-\u2199\u21ba-\u21f3\u2300-\u2307\u2322-\u2328\u232b-\u23ff\u2440-\u25b6\u25b8-\u25c0\u25c2-\u25f7"
)
PICTURES += "\u2600-\u266e\u2670-\u2767\u2794-\u27bf\u2800-\u28ff\u2b00-\u2b2f\U0001f000-\U0001faff"
CURRENCIES = "$£€¥฿\u20a0-\u20bf"
UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb "
    "MB kb KB gb GB tb TB T G M K %"
).split()

BEFORE = re.compile(rf"\.\.+|\+(?!\d)|[§%=—–{re.escape(MARKS)}{CURRENCIES}{PICTURES}]")
AFTER = re.compile(
    rf"(?:['’][sS]|\.\.+|(?<=\d)(?:\+|{'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))})"
    rf"|[—–{re.escape(MARKS)}{PICTURES}]|(?<=\d)[{CURRENCIES}])\Z"
)
LETTER = r"[^\W\d_]"
INSIDE = re.compile(
    rf"\.\.+|[…{PICTURES}]|(?<=\d)[+\-*^](?=[\d-])|(?<={LETTER}),(?={LETTER})"
    rf"|(?<=[^\W_])(?:-{{1,3}}|–|——?|~)(?={LETTER})|(?<=[^\W_])[:<>=/](?={LETTER})|\.(?={LETTER}|[{QUOTES}])"
)
BEFORE_FULL_STOP = frozenset("%²-+|" + MARKS)
ADDRESS = re.compile(r"(?:[a-z][a-z+.-]*://)?(?:[\w-]+(?::\S+)?@)?(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?(?:[/?#]\S*)?")

WHOLE = frozenset(
    """
    a.m. p.m. e.g. E.g. E.G. i.e. I.e. I.E. vs. v.s. co. Co. Corp. Inc. Ltd. Bros. Dr. Mr. Mrs. Ms. Messrs. Prof. Ph.D. Jr. St.
    Mt. Adm. Gen. Gov. Rep. Rev. Sen. D.C. Mo. Md. Mont. Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ala. Ariz.
    Ark. Calif. Colo. Conn. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M.
    N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis. C++ and/or w/o o'clock ma'am
    """.split()
) | {f"{letter}." for letter in string.ascii_lowercase + "äöü"}
"""Abbreviations keep their full stop, so that no sentence ends with them."""

NEGATION = re.compile(
    r"([Aa]i|[Aa]re|[Cc]a|[Cc]ould|[Dd]id|[Dd]o|[Dd]oes|[Hh]ad|[Hh]as|[Hh]ave|[Ii]s|[Mm]ight|[Mm]ust|[Nn]eed|[Oo]ught|[Ss]ha"
    r"|[Ss]hould|[Ww]as|[Ww]ere|[Ww]o|[Ww]ould)(n['’]?t)"
)
PRONOUN = re.compile(
    r"([Ii]|[Yy]ou|[Hh]e|[Ss]he|[Ii]t|[Ww]e|[Tt]hey|[Ww]ho|[Ww]hat|[Ww]hen|[Ww]here|[Ww]hy|[Hh]ow|[Tt]here|[Tt]hat|[Tt]his"
    r"|[Tt]hese|[Tt]hose)(['’](?:ll|ve|re|d|m|s))"
)
CANNOT = re.compile(r"([Cc]an)(not)")


def split_words(text: str) -> list[str]:
    """Words and punctuation marks in their order."""
    return list(chain.from_iterable(map(chunk_words, text.split())))


@lru_cache(maxsize=1 << 16)  # the chunks of a language are few: of abstracts 91 in 100 are here
def chunk_words(chunk: str) -> tuple[str, ...]:
    """The words of what stands between two spaces."""
    if len(chunk) > LONGEST_CHUNK:
        return (chunk,)
    before: list[str] = []
    after: list[str] = []
    middle, found = chunk, known_words(chunk)
    while middle and not found:
        opening = BEFORE.match(middle)
        rest = middle[opening.end() :] if opening else middle
        closing = _closing(rest)
        if not (opening or closing):
            break
        if opening:
            before.append(opening.group())
        # What is known as it stands keeps its end: of "(e.g." only the bracket goes.
        found = known_words(rest)
        if closing and not found:
            after.append(rest[-closing:])
            rest = rest[:-closing]
            found = known_words(rest)
        middle = rest
    return (*before, *(found or _inside(middle)), *reversed(after))


LONGEST_CHUNK = 1000
"""Characters. Base64, genomes and the like are one word: there is nothing in them to count, and they would fill the cache."""


def known_words(chunk: str) -> tuple[str, ...]:
    """Of abbreviations and contractions; empty for all others."""
    if chunk in WHOLE:
        return (chunk,)
    if "'" not in chunk and "’" not in chunk and not chunk.endswith(("nt", "not")):
        return ()
    found = NEGATION.fullmatch(chunk) or PRONOUN.fullmatch(chunk) or CANNOT.fullmatch(chunk)
    return found.groups() if found else ()


def _closing(chunk: str) -> int:
    """How many characters at the end are a word of their own."""
    if chunk.endswith(".") and not chunk.endswith(".."):
        last = chunk[-2:-1]
        ends_word = last.isdecimal() or (last.isalpha() and not last.isupper()) or last in BEFORE_FULL_STOP
        # An initial keeps its full stop, "DNA." does not.
        ends_acronym = len(chunk) > 2 and chunk[-3:-1].isalpha() and chunk[-3:-1].isupper()
        return int(ends_word or ends_acronym)
    found = AFTER.search(chunk)
    return len(found.group()) if found else 0


def _inside(chunk: str) -> list[str]:
    if chunk.isalnum() or ("." in chunk and ADDRESS.fullmatch(chunk)):
        return [chunk] if chunk else []
    words, start = [], 0
    for mark in INSIDE.finditer(chunk):
        if mark.start() == 0 or (mark.group() == "." and not _joins_sentences(chunk, mark.start())):
            continue
        words += [chunk[start : mark.start()], mark.group()]
        start = mark.end()
    return [word for word in (*words, chunk[start:]) if word]


def _joins_sentences(chunk: str, place: int) -> bool:
    """Whether a full stop stands between a small and a capital letter: "cells.The"."""
    before, after = chunk[place - 1], chunk[place + 1]
    small = (before.isalpha() and not before.isupper()) or before in QUOTES
    return small and (not after.islower() or after in QUOTES)


def count_sentences(words: list[str]) -> int:
    """A sentence ends with its marks: at the first word after one that is no punctuation the next begins."""
    sentences, ended = 1, False
    for word in words:
        if word in SENTENCE_ENDS:
            ended = True
        elif ended and not _is_punctuation(word):
            sentences, ended = sentences + 1, False
    return sentences


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in word)


@lru_cache(maxsize=1 << 16)
def is_symbol(word: str) -> bool:
    """Whether every character is a mark or a control character."""
    return all(character in SYMBOLS or unicodedata.category(character) == "Cc" for character in word)


@lru_cache(maxsize=1 << 16)
def has_letter(word: str) -> bool:
    return any(map(str.isalpha, word))


def unspaced_share(text: str) -> float:
    """Share of characters, spaces aside, in scripts that put no spaces between words."""
    if text.isascii():
        return 0.0
    unspaced = sum(map(len, UNSPACED.findall(text)))
    return unspaced / max(sum(map(len, text.split())), 1)
