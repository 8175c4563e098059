"""Personal data and secrets that are replaced by typed placeholders before documents are compared or split."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from configs.schema.tree import Fraction, Node

PiiTier = Literal["none", "patterns", "presidio", "ner"]
PatternKind = Literal["email", "ip", "card", "iban", "phone", "ssn", "credentials", "secret", "mac"]
PresidioKind = Literal[
    "crypto", "uk_nhs", "uk_nino", "es_nif", "es_nie", "it_fiscal_code", "pl_pesel", "in_aadhaar", "de_tax_id"
]
NerKind = Literal["person", "location", "organization"]
PiiKind = PatternKind | PresidioKind | NerKind

KINDS_OF_TIER: dict[PiiTier, tuple[PiiKind, ...]] = {
    "none": (),
    "patterns": get_args(PatternKind),
    "presidio": (*get_args(PresidioKind), *get_args(PatternKind)),
    "ner": (*get_args(PresidioKind), *get_args(PatternKind), *get_args(NerKind)),
}
"""A tier finds all that the tiers before it find. Of findings of one length the first kind wins: a check digit says more than
the shape of a telephone number."""


class Pii(Node):
    """What is looked for, what is left alone, and how well a run must find values that were planted.

    Example:
        Pii(tier="patterns", kinds=["email", "phone"], keep=["help@example.org", "nih.gov"])
    """

    tier: PiiTier = Field(
        default="none",
        description="patterns: addresses, numbers with a checksum and secrets, at the speed of one regular expression; presidio: "
        "also telephone numbers of many countries and national identity numbers, some 100 times slower; ner: also names, by the "
        "spaCy pipeline of `ner_pipeline`.",
    )
    kinds: list[PiiKind] | None = Field(
        default=None,
        min_length=1,
        description="What is replaced; default: every kind of the tier. With `ner` that takes places and organisations out of "
        "the texts too: name `person` and the others you want instead.",
    )
    keep: list[str] = Field(
        default=[],
        description="Values that are nobody's secret, as a support address, and domains: `nih.gov` keeps the e-mail addresses "
        "there and at its subdomains.",
    )
    ner_pipeline: str | None = Field(
        default=None,
        description="tier `ner`: a spaCy pipeline, as a directory or an installed package. None is downloaded.",
    )
    minimum_canary_recall: Fraction = Field(
        default=0.95, description="Least share of the planted values that must be found, of every kind."
    )
    minimum_canary_recall_of: dict[PiiKind, Fraction] = Field(
        default={},
        description="Another least share for single kinds: a statistical model misses more names than patterns.",
    )

    @property
    def wanted_kinds(self) -> tuple[PiiKind, ...]:
        return tuple(kind for kind in KINDS_OF_TIER[self.tier] if self.kinds is None or kind in self.kinds)

    @model_validator(mode="after")
    def _kinds_are_of_the_tier(self) -> Self:
        known = KINDS_OF_TIER[self.tier]
        for name, kinds in (("kinds", self.kinds or ()), ("minimum_canary_recall_of", self.minimum_canary_recall_of)):
            for kind in kinds:
                if kind not in known:
                    tiers = [tier for tier, others in KINDS_OF_TIER.items() if kind in others]
                    raise ValueError(f"{name}: tier {self.tier} does not find {kind}; it needs `tier: {tiers[0]}`")
        if (self.tier == "ner") != (self.ner_pipeline is not None):
            raise ValueError("`ner_pipeline` and `tier: ner` belong together: set both or neither")
        return self
