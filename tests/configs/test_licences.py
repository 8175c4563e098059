"""Licences are SPDX expressions, or the config says what to write instead."""

import pytest

from configs.schema.licences import spdx_expression


@pytest.mark.parametrize(
    "text",
    [
        "MIT", "CC-BY-SA-3.0", "Apache-2.0 OR MIT", "LicenseRef-NLM", "DocumentRef-x:LicenseRef-y", "0BSD AND LicenseRef-a",
        "MIT AND (LicenseRef-a OR LicenseRef-b)", "GPL-2.0-or-later WITH Classpath-exception-2.0",
    ],
)  # fmt: skip
def test_expressions_stay_as_they_are(text: str) -> None:
    assert spdx_expression(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "CC-BY-SA-3",
            "`CC-BY-SA-3` is no SPDX licence id; the nearest is CC-BY-SA-3.0; for other terms write LicenseRef-",
        ),
        ("apache-2.0", "SPDX writes `apache-2.0` as `Apache-2.0`"),
        ("MIT and Apache 2.0", "`Apache` is no SPDX licence id; the nearest is Apache-2.0"),
        ("GPL-3.0", "SPDX writes `GPL-3.0` as `GPL-3.0-only`"),
        ("proprietary", "`proprietary` is no SPDX licence id; for other terms write LicenseRef-NAME"),
        ("LicenseRef-our terms", "`terms` is no SPDX licence id"),
        ("MIT AND", "is no SPDX expression"),
        ("MIT Apache-2.0", "is no SPDX expression"),
        ("", "a licence is missing"),
    ],
)
def test_what_is_none_is_told_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ValueError, match="SPDX|licence") as error:
        spdx_expression(text)
    assert told in str(error.value)
