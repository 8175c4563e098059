"""SPDX licence expressions, checked when a config is read: a licence that no tool knows is a licence that nobody checks."""

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

if TYPE_CHECKING:
    from license_expression import Licensing

OWN_TERMS = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
"""SPDX 2.3, annex D: terms without an SPDX id."""
WORD = re.compile(r"[^\s()]+")
ID = re.compile(r"[A-Za-z0-9.+-]+")
"""Of SPDX 2.3, D.1; what is none (an address, `MIT/Apache-2.0`) is no licence that the parser takes either."""
OPERATORS = ("AND", "OR", "WITH")


def spdx_expression(text: str) -> str:
    """`text`, if it is an SPDX expression as SPDX writes it. Raises ValueError with what to write instead."""
    canonical = canonical_expression(text)
    if canonical != text:
        raise ValueError(f"SPDX writes `{text}` as `{canonical}`")
    return text


def canonical_expression(text: str) -> str:
    """An SPDX expression as SPDX writes it: ids are the same in any case (SPDX 2.3, D.2), and data sets write `cc-by-4.0`.

    Raises ValueError with what to write instead.
    """
    from license_expression import ExpressionError

    known = licensing()
    words = [word for word in WORD.findall(text) if word.upper() not in OPERATORS]
    unknown = [word for word in words if not OWN_TERMS.fullmatch(word) and not (ID.fullmatch(word) and _is_known(word))]
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` is no SPDX licence id{_nearest(unknown[0])}; for other terms write LicenseRef-NAME"
        )
    try:
        canonical = str(known.parse(text, strict=True)) if words else ""
    except (ExpressionError, AttributeError) as error:  # AttributeError: a bug of 30.4.4 at "MIT AND"
        raise ValueError(
            f"`{text}` is no SPDX expression ({error}); write for example `MIT` or `Apache-2.0 OR MIT`"
        ) from None
    if not words:
        raise ValueError("a licence is missing; write an SPDX id, or LicenseRef-NAME for other terms")
    return canonical


Licence = Annotated[str, AfterValidator(spdx_expression)]


@functools.cache
def licensing() -> "Licensing":
    """Reads SPDX's list once: a quarter of a second."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _is_known(word: str) -> bool:
    return not licensing().unknown_license_keys(word)


def missing_licence(expression: str, allowed: frozenset[str]) -> str | None:
    """The part of an SPDX expression that `allowed` would have to name too, or None."""
    if expression in allowed:
        return None
    return _missing_part(licensing().parse(expression), allowed)


def either(expressions: Iterable[str]) -> str:
    """The expression of what may be used by any of these: {"MIT", "Apache-2.0"} -> "Apache-2.0 OR MIT"."""
    known = licensing()
    parts = {str(part) for text in expressions for part in _alternatives(known.parse(text))}
    return str(known.parse(" OR ".join(f"({part})" for part in sorted(parts))))


def _alternatives(expression: Any) -> Sequence[Any]:
    return expression.args if type(expression).__name__ == "OR" else [expression]


def _missing_part(part: Any, allowed: frozenset[str]) -> str | None:
    if str(part) in allowed:
        return None
    match type(part).__name__:
        case "OR":
            missing = [_missing_part(each, allowed) for each in part.args]
            return None if None in missing else " or ".join(map(str, missing))
        case "AND":
            return next((found for each in part.args if (found := _missing_part(each, allowed))), None)
        case "LicenseWithExceptionSymbol" if str(part.license_symbol) in allowed:
            return None
        case _:
            return str(part)


def _nearest(word: str) -> str:
    ids = {name.lower(): name for name in licensing().known_symbols if not name.startswith("LicenseRef-")}
    found = difflib.get_close_matches(word.lower(), ids, n=1)
    return f"; the nearest is {ids[found[0]]}" if found else ""
