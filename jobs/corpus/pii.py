"""Texts -> texts without personal data and secrets, and an audit that holds none of them.

text --finders of the tier--> spans --longest first--> placeholders --again, until nothing is found--> text, findings

    "Write to ada@example.com."  ->  "Write to [EMAIL].", (Finding(kind="email", digest="5f1c...", start=9),)

Neither findings nor errors say what was found: a finding has a keyed hash of the value, so that a value can be followed
through a corpus, or looked up by somebody who knows both it and the salt. Numbers of nine digits can be guessed by whoever
has the salt: keep it where passwords are kept.
"""

import hmac
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, get_args

import pyarrow as pa

from configs.errors import UserError
from configs.schema.pii import KINDS_OF_TIER, NerKind, Pii, PiiKind, PresidioKind
from jobs.corpus.pii_checks import normalised
from jobs.corpus.pii_patterns import PATTERNS, Pattern, Span, pattern_spans, suspicious_rows

Finder = Callable[[str], Iterable[Span]]

PLACEHOLDERS: dict[PiiKind, str] = {kind: f"[{kind.upper()}]" for kind in KINDS_OF_TIER["ner"]}
PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS.values())))
RANK: dict[PiiKind, int] = {kind: rank for rank, kind in enumerate(KINDS_OF_TIER["ner"])}
PII_SALT = "ACCLIMATE_PII_SALT"
SHORTEST_SALT = 16
"""Bytes: as many as the digest has, else the salt is easier to guess than the value."""
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """What was replaced, without it. Example: Finding(kind="email", digest="5f1c09ab...", start=9)"""

    kind: PiiKind
    digest: str
    """First 16 bytes of HMAC-SHA256(salt, kind + NUL + normalised value), hexadecimal: the same however a value is written."""
    start: int
    """Of the placeholder in the redacted text, in characters."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text with placeholders; `findings` by their place in it. Example: Redacted("Write to [EMAIL].", (Finding(...),))"""

    text: str
    findings: tuple[Finding, ...] = ()


def redact(texts: Sequence[str] | pa.Array | pa.ChunkedArray, settings: Pii, salt: bytes) -> list[Redacted]:
    """One result a text, in their order. Idempotent: what was redacted comes back as it is, with no findings.

    Of findings that overlap the longest stays, of equally long ones the first kind of the tier. Placeholders that a text already
    has stay, and nothing that touches one is a finding.

    Raises:
        UserError: the salt is too short, or a package or pipeline of the tier is not there.
    """
    array = _one_array(texts)
    if settings.tier == "none":
        return [Redacted(text) for text in array.to_pylist()]
    if len(salt) < SHORTEST_SALT:
        raise UserError(
            f"the salt of the PII audit has {len(salt)} bytes and needs {SHORTEST_SALT}: with fewer, hashes are guessed"
        )
    patterns = [pattern for pattern in PATTERNS if pattern.kind in settings.wanted_kinds]
    finders = _slow_finders(settings)
    results = [Redacted(text) for text in array.to_pylist()]
    rows = list(range(len(results)))
    # Until nothing is found: a placeholder is shorter than its value and may bring a number next to its "Tel.". It ends,
    # because every round takes characters away that belong to no placeholder.
    while rows:
        suspicious = suspicious_rows(array, patterns)
        changed: list[int] = []
        for place in range(len(rows)) if finders else suspicious:
            before = results[rows[place]]
            spans = _spans(before.text, suspicious.get(place, []), finders, settings)
            if spans:
                results[rows[place]] = _replaced(before, spans, salt)
                changed.append(rows[place])
        rows = changed
        array = pa.array([results[row].text for row in rows], pa.large_string())
    return results


def audit_salt() -> bytes:
    """ACCLIMATE_PII_SALT; empty without. With it a corpus keeps which document had which value, as keyed digests: who has the
    salt can look a value up, nobody else can. It is in no config, log or artifact. Raises UserError."""
    salt = os.environ.get(PII_SALT, "").encode()
    if salt and len(salt) < SHORTEST_SALT:
        raise UserError(
            f"{PII_SALT} has {len(salt)} characters; give it {SHORTEST_SALT} or more (openssl rand -hex 24)"
        )
    return salt


def check_finders(settings: Pii) -> None:
    """Raises UserError where a package or pipeline of the tier is not on this host, or the salt of the audit is none."""
    if settings.tier != "none":
        audit_salt()
        _slow_finders(settings)


def _one_array(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    array: Any = pa.array(texts, pa.large_string()) if isinstance(texts, Sequence) else texts
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    assert array.null_count == 0, f"{array.null_count} texts are null"
    return array


def _slow_finders(settings: Pii) -> list[Finder]:
    """What reads every text in Python, each imported only by the tier that needs it."""
    finders: list[Finder] = []
    if settings.tier in ("presidio", "ner") and {"phone", *get_args(PresidioKind)} & set(settings.wanted_kinds):
        from jobs.corpus.pii_presidio import presidio_finder

        finders.append(presidio_finder(settings))
    if settings.tier == "ner" and set(get_args(NerKind)) & set(settings.wanted_kinds):
        from jobs.corpus.pii_ner import ner_finder

        finders.append(ner_finder(settings))
    return finders


def _spans(text: str, patterns: list[Pattern], finders: list[Finder], settings: Pii) -> list[Span]:
    """What is to be replaced, by place and without overlaps."""
    spans = list(pattern_spans(text, patterns))
    for find in finders:
        spans += find(text)
    return _without_overlaps([span for span in _outside_placeholders(text, spans) if not _is_kept(span, settings)])


def _outside_placeholders(text: str, spans: list[Span]) -> list[Span]:
    starts, ends = [], [-1]
    for match in PLACEHOLDER.finditer(text):
        starts.append(match.start())
        ends.append(match.end())
    # The last placeholder that starts before the span ends is the only one that can reach into it.
    return [span for span in spans if ends[bisect_left(starts, span.end)] <= span.start]


def _is_kept(span: Span, settings: Pii) -> bool:
    if any(span.value == normalised(span.kind, value) for value in settings.keep):
        return True
    domain = span.value.rpartition("@")[2]
    return span.kind == "email" and any(f".{domain}".endswith(f".{value.casefold()}") for value in settings.keep)


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """`kept` is by place and has no overlaps, so a span can only meet the two around its own place."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.end, RANK[span.kind], span.start)):
        place = bisect_left(kept, span.start, key=lambda other: other.start)
        around = kept[max(0, place - 1) : place + 1]
        if all(span.end <= other.start or other.end <= span.start for other in around):
            kept.insert(place, span)
    return kept


def _replaced(before: Redacted, spans: list[Span], salt: bytes) -> Redacted:
    """The text with placeholders for the spans, and all findings, those of earlier rounds moved to where they are now."""
    parts: list[str] = []
    new: list[Finding] = []
    end = length = 0
    for span in spans:
        placeholder = PLACEHOLDERS[span.kind]
        length += span.start - end
        new.append(Finding(span.kind, digest_of(span.kind, span.value, salt), length))
        parts += (before.text[end : span.start], placeholder)
        length += len(placeholder)
        end = span.end
    text = "".join([*parts, before.text[end:]])
    ends = [span.end for span in spans]
    shifts = list(accumulate((len(PLACEHOLDERS[span.kind]) - span.end + span.start for span in spans), initial=0))
    moved = [
        replace(finding, start=finding.start + shifts[bisect_right(ends, finding.start)]) for finding in before.findings
    ]
    return Redacted(text, tuple(sorted([*moved, *new], key=lambda finding: finding.start)))


def digest_of(kind: PiiKind, value: str, salt: bytes) -> str:
    """How a finding of a normalised value is written down."""
    return hmac.digest(salt, f"{kind}\0{value}".encode(), "sha256")[:DIGEST_BYTES].hex()
