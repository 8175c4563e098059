"""SPDX licence expressions, checked when a config is read: a licence that no tool knows is a licence that nobody checks."""

import difflib
import functools
import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from license_expression import Licensing

OWN_TERMS = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""SPDX 2.3, annex D: terms without an SPDX id."""
WORD = re.compile(r"[^\s()]+")
OPERATORS = ("AND", "OR", "WITH")


def spdx_expression(text: str) -> str:
    """`text`, if it is an SPDX expression as SPDX writes it. Raises ValueError with what to write instead."""
    from license_expression import ExpressionError

    licensing = _licensing()
    words = [word for word in WORD.findall(text) if word.upper() not in OPERATORS]
    unknown = [word for word in words if not OWN_TERMS.fullmatch(word) and licensing.unknown_license_keys(word)]
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` is no SPDX licence id{_nearest(unknown[0])}; for other terms write LicenseRef-NAME"
        )
    try:
        canonical = str(licensing.parse(text, strict=True)) if words else ""
    except (ExpressionError, AttributeError) as error:  # AttributeError: a bug of 30.4.4 at "MIT AND"
        raise ValueError(
            f"`{text}` is no SPDX expression ({error}); write for example `MIT` or `Apache-2.0 OR MIT`"
        ) from None
    if not words:
        raise ValueError("a licence is missing; write an SPDX id, or LicenseRef-NAME for other terms")
    if canonical != text:
        raise ValueError(f"SPDX writes `{text}` as `{canonical}`")
    return text


Licence = Annotated[str, AfterValidator(spdx_expression)]


@functools.cache
def _licensing() -> "Licensing":
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _nearest(word: str) -> str:
    ids = {name.lower(): name for name in _licensing().known_symbols if not name.startswith("LicenseRef-")}
    found = difflib.get_close_matches(word.lower(), ids, n=1)
    return f"; the nearest is {ids[found[0]]}" if found else ""
