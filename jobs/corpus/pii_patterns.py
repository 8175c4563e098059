"""Tier `patterns`: which rows may hold what (RE2 over an Arrow array), and where exactly (Python, in those rows only).

array --one RE2 alternation--> rows that may hold anything --one RE2 pass a pattern--> (row, pattern) --Python--> spans

A pattern's `prefilter` matches wherever its `expression` does, so the first two passes lose nothing. Not found: values
spelled out ("name at example dot org"), in full-width or other digits than 0-9, or with zero-width characters between them;
e-mail addresses in other than Latin letters; private, loopback and multicast IP addresses, which name nobody; IPv4 addresses
that begin with 1 to 7 with neither a word as "host" before them nor the rest of a log's line after, which are enzymes (EC
3.4.21.4); national telephone numbers other than North American ones without a word as "Tel." before them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from configs.schema.pii import PatternKind, PiiKind
from jobs.corpus import pii_checks as checks

Check = Callable[[str, str, str], bool]
BEFORE, AFTER = 48, 48
"""Characters around a candidate that its check reads: a few words."""


@dataclass(frozen=True, slots=True)
class Span:
    """A finding while its text is at hand; never leaves jobs/corpus/pii*.py.

    Example:
        Span(start=9, end=24, kind="email", value="ada@example.com")
    """

    start: int
    end: int
    kind: PiiKind
    value: str
    """Normalised: one value, one hash, however it is written."""


@dataclass(frozen=True, slots=True)
class Pattern:
    kind: PatternKind
    prefilter: str
    """RE2, cheap, no groups."""
    expression: re.Pattern[str]
    """Its group `value`, where it has one, is the finding; else the whole match is."""
    check: Check


ASCII_WORD = "0-9A-Za-z_"
LATIN = "0-9A-Za-zÀ-ÖØ-öø-ɏ"
SPACE = " \u00a0\u2009\u202f"
DASH = "\u2010\u2011\u2013-"
"""Closed by the ASCII hyphen: the class goes last inside brackets."""
GAP = f"[{SPACE}{DASH}]"
WRAP = f"(?:{GAP}|[ ]?\r?\n[ ]{{0,8}})"
"""A gap, or the end of a line with what the next is indented by."""

PHONE_WORD = (
    "(?i:tele(?:phone|fon|fono|fax)|teléfono|téléphone|tél|tel|phone|fax|mobile?|handy|hotline|helpline|whatsapp|call|dial)"
    "(?:[ .:;#=/,]|(?i:numbers?|nummer|nr|no|line|is|at|on|us|me)){1,6}"
)
SHORT_PHONE_WORD = "(?:[TMF]:|[Pp]h[.:]) ?"
"""As letterheads have them; "pH" is none."""
SECRET_WORD = (
    "(?i:passwor[dt]|kennwort|contraseña|passwd|passphrase|pwd|secret|(?:api|access|secret|private|account)[_-]?key|apikey"
    "|(?:access|auth|refresh|bearer|api)[_-]?token)"
    "(?:\\\\?[\"'])?[ \t]{0,3}(?::=|=>|[:=])[ \t]{0,3}"
)
PASSWORD_IS = "(?i:(?:passwor[dt]|passphrase|passcode|kennwort) (?:is|ist):? )"
TOKEN_WORD = (
    "(?i:bearer|token|(?:api|access|secret|private|account|auth) key)[\"']?(?:[ :=]|(?i: ist? ))[ \t]{0,3}[\"']?"
)
"""Words of prose as well, so what follows must look random."""
TOKEN_PREFIXES = (
    "AKIA[0-9A-Z]{16}", "ASIA[0-9A-Z]{16}", "gh[pousr]_[0-9A-Za-z]{36}", "github_pat_[0-9A-Za-z_]{22}", "glpat-[0-9A-Za-z_-]{20}",
    "xox[abeoprs]-[0-9A-Za-z-]{10}", "AIza[0-9A-Za-z_-]{35}", "[rs]k_live_[0-9A-Za-z]{16}", "hf_[0-9A-Za-z]{34}",
    "sk-[0-9A-Za-z_-]{32}", "npm_[0-9A-Za-z]{36}", "pypi-AgE[0-9A-Za-z_-]{16}", "dckr_pat_[0-9A-Za-z_-]{27}",
    r"SG\.[0-9A-Za-z_-]{22}\.[0-9A-Za-z_-]{43}", r"hooks\.slack\.com/services/T[0-9A-Z]{8,12}/B[0-9A-Z]{8,12}/[0-9A-Za-z]{20}",
)  # fmt: skip
"""AWS, GitHub, GitLab, Slack, Google, Stripe, Hugging Face, OpenAI, npm, PyPI, Docker Hub, SendGrid, as each
provider documents its keys."""
IPV4 = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}"
IPV6 = "[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:"
"""2000::/3, the only part of IPv6 that is given out: `std::vector` and 12:30:45 are no candidates."""
CARD = f"[2-6][0-9]{{3}}{GAP}?[0-9]{{4}}{GAP}?[0-9]{{4}}{GAP}?[0-9]{{4}}|3[0-9]{{3}}{GAP}?[0-9]{{6}}{GAP}?[0-9]{{4,5}}"
NANP = rf"(?:\([2-9][0-9]{{2}}\)[{SPACE}]?|[2-9][0-9]{{2}}[.{DASH}])[2-9][0-9]{{2}}[.{DASH}][0-9]{{4}}"
"""North American: NPA-NXX-XXXX."""
PHONE_GAP = f"(?:[.(){SPACE}{DASH}]{{0,2}}| ?/ ?)"
"""Not a slash beside a bracket or a point: a rate."""
# 14 digits: E.164 allows 15, no plan has them, and sums in columns do.
E164 = rf"\+[1-9](?:{PHONE_GAP}[0-9]){{8}}"
IDD = f"00[1-9][0-9]{{0,2}}(?:[{SPACE}{DASH}]|[ ]?\\(0\\)[ ]?)[1-9]"
"""What most countries dial for + (ITU-T E.164). Numbers that are filled with zeros (0034 0051) go on with another one."""
SSN = f"[0-9]{{3}}[{DASH}][0-9]{{2}}[{DASH}][0-9]{{4}}"
SSN_WORD = "(?i:ssn|social security(?: number| no\\.?)?)[ :#.]{1,3}"

NOT_IN_NUMBER = f"(?<![{ASCII_WORD}+/])(?<![0-9][.,{DASH}])"
NUMBER_ENDS = f"(?![{ASCII_WORD}]|[./{DASH}][0-9])"


def _pattern(kind: PatternKind, prefilter: str, expression: str, check: Check) -> Pattern:
    return Pattern(kind, prefilter, re.compile(expression, re.ASCII), check)


PATTERNS = (
    _pattern(
        "email",
        f"@[{LATIN}]",
        # 64 and 63 characters: RFC 5321, 4.5.3.1. The bounds also keep the time linear in the text.
        f"(?<![{LATIN}])[{LATIN}_][{LATIN}._%+'-]{{0,63}}+@(?:[{LATIN}][{LATIN}-]{{0,62}}\\.)+"
        f"(?:xn--[0-9A-Za-z-]{{2,59}}|[A-Za-z]{{2,24}})(?![{LATIN}])",
        checks.is_mail_domain,
    ),
    _pattern(
        "ip",
        IPV4,
        rf"(?<![{ASCII_WORD}.])(?<!cyclo\[){IPV4}(?![{ASCII_WORD}]|\.[0-9])",
        checks.is_public_ipv4,
    ),
    _pattern(
        "ip",
        IPV6,
        rf"(?<![{ASCII_WORD}:.])[23][0-9A-Fa-f]{{3}}(?::[0-9A-Fa-f]{{0,4}}){{2,7}}(?<!:)(?![0-9A-Za-z]|:[0-9A-Za-z:])",
        checks.is_ipv6,
    ),
    _pattern(
        "card",
        CARD,
        f"{NOT_IN_NUMBER}(?<![0-9]{{4}} )(?:[0-9]{{4}}(?:{GAP}?[0-9]{{4}}){{3}}|3[0-9]{{3}}{GAP}?[0-9]{{6}}{GAP}?[0-9]{{4,5}}"
        f"|[0-9]{{13}}|[0-9]{{19}})(?! [0-9]{{4}}){NUMBER_ENDS}",
        checks.is_card,
    ),
    _pattern(
        "iban",
        f"[A-Z]{{2}}[0-9]{{2}}{WRAP}?[0-9A-Z]{{4}}{WRAP}?[0-9A-Z]{{4}}{WRAP}?[0-9A-Z]{{3}}",
        f"(?<![0-9A-Za-z])(?:{checks.iban_expression(WRAP)})(?![0-9A-Za-z])",
        checks.is_iban,
    ),
    _pattern(
        "iban",
        # Nearly all have digits only after the bank's code; without that every "cd44 high cells" is read twice.
        f"[a-z]{{2}}[0-9]{{2}}{WRAP}?[0-9a-z]{{4}}{WRAP}?[0-9]{{4}}",
        f"(?<![0-9A-Za-z])(?=....{WRAP}?....{WRAP}?[0-9]{{4}})(?:{checks.iban_expression(WRAP).lower()})(?![0-9A-Za-z])",
        checks.is_iban,
    ),
    _pattern(
        "phone",
        E164,
        rf"(?<![{ASCII_WORD}+~)\]])\+[1-9](?:{PHONE_GAP}[0-9]){{8,13}}(?![{ASCII_WORD}]|[.,][0-9])",
        checks.is_international_phone,
    ),
    _pattern("phone", rf"\b{IDD}", f"{NOT_IN_NUMBER}{IDD}(?:{PHONE_GAP}[0-9]){{6,11}}{NUMBER_ENDS}", checks.is_phone_after_00),
    _pattern("phone", NANP, f"{NOT_IN_NUMBER}(?:1[ .{DASH}])?{NANP}{NUMBER_ENDS}", checks.is_north_american_phone),
    _pattern(
        "phone",
        rf"{PHONE_WORD}[+(]{{0,2}}[0-9]",
        rf"(?<![{ASCII_WORD}]){PHONE_WORD}(?:\((?![0-9]{{2,5}}\)))?"
        rf"(?P<value>(?:\([0-9]{{2,5}}\)[./{SPACE}{DASH}]{{0,2}}|\+)?[0-9](?:(?:[.()/{SPACE}{DASH}]{{0,2}}| / )[0-9]){{4,14}})"
        rf"(?![{ASCII_WORD}%]| %|[.,][0-9])",
        checks.is_national_phone,
    ),
    _pattern(
        "phone",
        rf"{SHORT_PHONE_WORD}\(?0[1-9]",
        rf"(?<![{ASCII_WORD}]){SHORT_PHONE_WORD}"
        rf"(?P<value>(?:\(0[0-9]{{1,4}}\)|0[1-9])(?:{PHONE_GAP}[0-9]){{5,10}}){NUMBER_ENDS}",
        checks.is_national_phone,
    ),
    _pattern("ssn", SSN, f"{NOT_IN_NUMBER}{SSN}{NUMBER_ENDS}", checks.is_ssn),
    _pattern(
        "ssn",
        f"{SSN_WORD}[0-9]{{3}} ?[0-9]{{2}}",
        f"(?<![{ASCII_WORD}]){SSN_WORD}(?P<value>[0-9]{{3}} ?[0-9]{{2}} ?[0-9]{{4}}){NUMBER_ENDS}",
        checks.is_ssn,
    ),
    _pattern(
        "credentials",
        "://[^ \t\r\n/?#:@]*:[^ \t\r\n/?#]+@",
        "(?<![0-9A-Za-z])[A-Za-z][0-9A-Za-z+.-]{1,20}://"
        "(?P<value>[^ \t\r\n/?#:@<>\\[\\]\"']{0,128}:[^ \t\r\n/?#<>\\[\\]\"']{1,256}"
        "@[0-9A-Za-z][0-9A-Za-z.-]{0,252}(?::[0-9]{1,5})?)",
        checks.is_filled_in_password,
    ),
    _pattern(
        "secret",
        "-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY",
        # Where the end is missing, as far as whole lines are base64.
        "-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        "(?:(?s:.{0,20000}?)-----END [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"|(?:(?:\r?\n|\\n)[0-9A-Za-z+/]+={0,2}(?=\r?\n|\\n|\Z))*)",
        checks.always,
    ),
    _pattern(
        "secret",
        r"eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]",
        rf"(?<![{ASCII_WORD}-])eyJ[0-9A-Za-z_-]{{8,}}\.[0-9A-Za-z_-]{{8,}}\.[0-9A-Za-z_-]{{8,}}",
        checks.always,
    ),
    _pattern(
        "secret",
        "|".join(TOKEN_PREFIXES),
        f"(?<![{ASCII_WORD}-])(?:{'|'.join(TOKEN_PREFIXES)})[0-9A-Za-z_-]{{0,255}}",
        checks.is_key,
    ),
    _pattern(
        "secret",
        f"{SECRET_WORD}[^ \t\r\n]",
        f"{SECRET_WORD}\\\\?(?P<quote>[\"'])(?P<value>[^ \t\r\n\"'\\\\]{{4,200}})\\\\?(?P=quote)",
        checks.is_filled_in,
    ),
    _pattern(
        "secret",
        f"{SECRET_WORD}[^ \t\r\n]",
        # Possessive: `os.environ[...]` and `read()` are code, and so is every shorter beginning of them.
        f"{SECRET_WORD}(?P<value>[^ \t\r\n\"'`,;<>(){{}}\\[\\]\\\\]{{6,200}}+)(?![(\\[{{])",
        checks.is_unquoted_secret,
    ),
    _pattern(
        "secret",
        f"{PASSWORD_IS}[^ \t\r\n]",
        f"{PASSWORD_IS}[\"']?(?P<value>[^ \t\r\n\"'`,;<>(){{}}\\[\\]\\\\]{{6,200}}+)(?![(\\[{{])",
        checks.is_said_password,
    ),
    _pattern(
        "secret",
        f"{TOKEN_WORD}[0-9A-Za-z_.~+/=-]{{4}}",
        f"(?<![A-Za-z]){TOKEN_WORD}(?P<value>[0-9A-Za-z_.~+/=-]{{15,255}}[0-9A-Za-z_~+/=-])",
        checks.is_random,
    ),
    _pattern(
        "mac",
        "[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}",
        f"(?<![{ASCII_WORD}:-])[0-9A-Fa-f]{{2}}([:-])(?:[0-9A-Fa-f]{{2}}\\1){{4}}[0-9A-Fa-f]{{2}}(?![{ASCII_WORD}]|[:-][{ASCII_WORD}])",
        checks.is_mac,
    ),
)  # fmt: skip


def suspicious_rows(texts: pa.Array, patterns: Sequence[Pattern]) -> dict[int, list[Pattern]]:
    """Row -> the patterns that may match there, in their order; rows without any are left out.

    The combined pass reads all bytes once, at about 0.5 GB/s: RE2 makes one automaton of any number of alternatives.
    """
    if not patterns:
        return {}
    anything = "|".join(dict.fromkeys(f"(?:{pattern.prefilter})" for pattern in patterns))
    rows = pc.call_function("indices_nonzero", [_matches(texts, anything)])
    candidates = texts.take(rows)
    found: dict[int, list[Pattern]] = {row: [] for row in rows.to_pylist()}
    for pattern in patterns:
        for row in rows.filter(_matches(candidates, pattern.prefilter)).to_pylist():
            found[row].append(pattern)
    return found


def _matches(texts: pa.Array, expression: str) -> pa.Array:
    return pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(expression))


def pattern_spans(text: str, patterns: Sequence[Pattern]) -> Iterator[Span]:
    """What the patterns match and their checks accept; may overlap."""
    for pattern in patterns:
        position = 0
        while match := pattern.expression.search(text, position):
            group = "value" if "value" in pattern.expression.groupindex else 0
            start, end = match.span(group)
            value = match.group(group)
            if pattern.check(value, text[max(0, match.start() - BEFORE) : start], text[end : end + AFTER]):
                yield Span(start, end, pattern.kind, checks.normalised(pattern.kind, value))
                position = end
            else:
                position = match.start() + 1
