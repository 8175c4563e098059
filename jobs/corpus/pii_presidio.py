"""Tier `presidio`: its recognisers of numbers that have a check digit, and telephone numbers of many countries.

Only those: on PubMed its IP addresses are enzymes, its medical licences trial numbers (NCT...), its driver's licences genes, its
URLs species (E.co), and its telephone numbers at the default leniency ranges of any two numbers. Its recognisers are
asked themselves: the AnalyzerEngine around them wants a language model, and without one (NoOpNlpEngine) only adds copying. A
score is then the pattern's own, 1.0 where the check digit is right and 0 where it is wrong.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from configs.errors import UserError
from configs.schema.pii import Pii, PiiKind
from jobs.corpus.pii_checks import normalised
from jobs.corpus.pii_patterns import Span

LEAST_SCORE = 0.5
"""Presidio gives 1.0 to a right check digit and from 0.5 to shapes that are rare elsewhere (a UK NINO), less to plain digits."""
PHONE_LENIENCY = 3
"""phonenumbers' EXACT_GROUPING: a number that the country gives out, in groups as people there write it."""
FEWEST_PHONE_DIGITS = 7
"""Its plans also have numbers of four digits ("1685 students")."""


def presidio_finder(settings: Pii) -> Callable[[str], Iterable[Span]]:
    """Raises UserError where presidio-analyzer is not installed."""
    try:
        from presidio_analyzer import predefined_recognizers as recognizers
    except ImportError as error:
        raise UserError(
            f"pii.tier: {settings.tier} needs presidio-analyzer 2.2.366, which is not installed here ({error.name} is missing). "
            "Install it on every host: pip install 'acclimate[pii]', or set `tier: patterns`."
        ) from error
    makers: dict[PiiKind, Callable[[], Any]] = {
        "phone": lambda: recognizers.PhoneRecognizer(leniency=PHONE_LENIENCY),
        "crypto": recognizers.CryptoRecognizer,
        "uk_nhs": recognizers.NhsRecognizer,
        "uk_nino": recognizers.UkNinoRecognizer,
        "es_nif": lambda: recognizers.EsNifRecognizer(supported_language="en"),
        "es_nie": lambda: recognizers.EsNieRecognizer(supported_language="en"),
        "it_fiscal_code": lambda: recognizers.ItFiscalCodeRecognizer(supported_language="en"),
        "pl_pesel": lambda: recognizers.PlPeselRecognizer(supported_language="en"),
        "in_aadhaar": recognizers.InAadhaarRecognizer,
        "de_tax_id": lambda: recognizers.DeTaxIdRecognizer(supported_language="en"),
    }
    found_by: dict[PiiKind, Any] = {kind: make() for kind, make in makers.items() if kind in settings.wanted_kinds}

    def find(text: str) -> Iterator[Span]:
        for kind, recognizer in found_by.items():
            for result in recognizer.analyze(text, recognizer.supported_entities):
                start, value = result.start, text[result.start : result.end]
                if value.startswith("(") and ")" not in value:  # the bracket of "(01632 960001)"
                    start, value = start + 1, value[1:]
                is_part = _is_word(text[start - 1 : start]) or _is_word(text[result.end : result.end + 1])
                if not is_part and (_is_phone(value) if kind == "phone" else _is_number(kind, value, result.score)):
                    yield Span(start, result.end, kind, normalised(kind, value))

    return find


def _is_word(character: str) -> bool:
    """Beside a number, a part of it: accession numbers (PBANKA_0305900) and DOIs hold all sorts of shorter numbers."""
    return character.isalnum() or character in ("_", "/")


def _is_phone(value: str) -> bool:
    """Digits without gaps most often count something, and with both a point and a slash they are a rate (77.94/100000)."""
    return not value.isdigit() and not {".", "/"} <= set(value) and sum(map(str.isdigit, value)) >= FEWEST_PHONE_DIGITS


def _is_number(kind: PiiKind, value: str, score: float) -> bool:
    """NHS numbers are written in threes with spaces; one in eleven telephone numbers with dashes has their check digit too.
    Presidio ignores the case, and "rs261083 C" is an allele."""
    return (
        score >= LEAST_SCORE
        and not (kind == "uk_nhs" and "-" in value)
        and (kind == "crypto" or value == value.upper())
    )
