"""Names of the files of samples. Imports nothing heavy: the command line looks for them, too."""

import re

DIRECTORY = "samples"
FILE = re.compile(r"(step|heldout)-(\d+)\.parquet")


def step_of(name: str, kind: str | None = None) -> int | None:
    """Of a file with answers to train on (kind `step`, from 1) or to held-out prompts (`heldout`, from 0); None of another file.

    Example:
        step_of("heldout-000012.parquet") == 12
    """
    match = FILE.fullmatch(name)
    return int(match[2]) if match is not None and kind in (None, match[1]) else None
