"""Which documents may be learnt from, by licence and confidentiality: an allow-list for each thing that is done with a model."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from configs.schema.licences import spdx_expression
from configs.schema.tree import Node

Purpose = Literal["train", "serve", "publish"]
"""train: learn from them; serve: let people of the organisation ask the model; publish: give the model away."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

Confidentiality = Literal["public", "internal", "restricted"]
CONFIDENTIALITIES: tuple[Confidentiality, ...] = get_args(Confidentiality)
"""From what everybody may know to what few may."""

PERMISSIVE = "permissive"
PERMISSIVE_LICENCES = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "ODC-By-1.0", "PDDL-1.0", "Unlicense", "Zlib",
})  # fmt: skip
"""Licences that ask for a notice at most. Share-alike, non-commercial and no-derivatives ones are for a lawyer to add."""


def _allowed_licence(text: str) -> str:
    if text == PERMISSIVE:
        return text
    spdx_expression(text)
    if " AND " in text or " OR " in text:
        raise ValueError(f"`{text}`: name licences one by one; which documents that have several may be used follows")
    return text


AllowList = list[Annotated[str, AfterValidator(_allowed_licence)]]


class Limit(Node):
    """The most confidential documents that may be used, by purpose."""

    train: Confidentiality = "internal"
    serve: Confidentiality = "internal"
    publish: Confidentiality = "public"


class Gate(Node):
    """What is not on a list is not used: an unknown licence is a forbidden one.

    Of `A OR B` one has to be allowed, of `A AND B` both. `A WITH exception` is allowed where `A` is, or itself.
    """

    purposes: list[Purpose] = Field(
        default=["train", "serve"],
        description="What the rows are for. Documents that are not allowed for all of it are set aside, with the reason. With "
        "[] nothing is set aside, and the rows can be measured on but not trained on.",
    )
    train: AllowList = Field(
        default=[PERMISSIVE],
        description="Licences to learn from. permissive: public domain, and licences that ask for a notice at most ("
        + ", ".join(sorted(PERMISSIVE_LICENCES))
        + "); any other, and every LicenseRef-..., by name.",
    )
    serve: AllowList | None = Field(default=None, description="Licences to serve a model of; default: as `train`.")
    publish: AllowList = Field(default=[PERMISSIVE], description="Licences to publish a model of.")
    confidentiality: Limit = Field(
        default=Limit(), description="The most confidential documents that may be used, by purpose."
    )

    @model_validator(mode="after")
    def _purposes_make_sense(self) -> Self:
        if len(set(self.purposes)) < len(self.purposes):
            raise ValueError("purposes: name each once")
        if self.purposes and "train" not in self.purposes:
            raise ValueError(f"purposes: {self.purposes} need `train`; [] is for rows that are measured on alone")
        return self

    def licences(self, purpose: Purpose) -> frozenset[str]:
        """Those allowed, `permissive` spelled out."""
        named = {
            "train": self.train,
            "serve": self.train if self.serve is None else self.serve,
            "publish": self.publish,
        }
        found = set(named[purpose])
        return frozenset(found - {PERMISSIVE} | (PERMISSIVE_LICENCES if PERMISSIVE in found else set()))
