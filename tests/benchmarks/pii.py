"""Tier `patterns` beside raw RE2: what it costs to look for nine kinds instead of two, with checks and an audit.

    python tests/benchmarks/pii.py [--rounds 9]

    raw   pyarrow.compute.replace_substring_regex of e-mail addresses, then of IPv4 addresses: Arrow array in, Arrow array out
    ours  jobs.corpus.pii.redact with all kinds of the tier: the same Arrow array in, a list of results in Python out

The texts are the 18,000 real abstracts of 2021 (artifacts/assets/pubmed; `make demo` fetches them), cleaned, in one array. Few of
them hold anything, so this is the cost of looking; `planted` shows the other end, an e-mail address in every tenth text (raw
pays for it as well). CPU time of one thread, the two in turn; a ratio is the median over the rounds. Last line:
{"pii_tier1_vs_re2": r}, the time of ours over raw's on the abstracts as they are; wanted: at most 2.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from configs.schema.corpus import Cleaning  # noqa: E402 - the checkout is not on a script's path
from configs.schema.pii import Pii  # noqa: E402
from jobs.corpus.clean import clean_text  # noqa: E402
from jobs.corpus.pii import redact  # noqa: E402
from jobs.corpus.pubmed import read_pubmed_file  # noqa: E402

ABSTRACTS = ROOT / "artifacts/assets/pubmed/pubmed21n1298.xml.gz"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}"
IPV4 = r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b"
SALT = bytes(16)
WARM_UP_ROUNDS = 1
PLANTED_EVERY = 10


def read_abstracts() -> pa.Array:
    texts = [clean_text(row.text, Cleaning()) for row in read_pubmed_file(Path(ABSTRACTS))]
    return pa.array(texts, pa.large_string())


def plant(texts: pa.Array) -> pa.Array:
    rows = [
        f"{text} Contact: ada@example.com." if row % PLANTED_EVERY == 0 else text
        for row, text in enumerate(texts.to_pylist())
    ]
    return pa.array(rows, pa.large_string())


def raw(texts: pa.Array) -> pa.Array:
    without_emails = pc.replace_substring_regex(texts, pattern=EMAIL, replacement="[EMAIL]")
    return pc.replace_substring_regex(without_emails, pattern=IPV4, replacement="[IP]")


def ours(texts: pa.Array) -> list[Any]:
    return redact(texts, Pii(tier="patterns"), SALT)


def seconds_of(function: Callable[[pa.Array], Any], texts: pa.Array) -> float:
    began = time.process_time()
    function(texts)
    return time.process_time() - began


def race(texts: pa.Array, rounds: int) -> tuple[float, float, float]:
    """(median seconds of ours, of raw, median ratio); who begins changes every round."""
    pairs = []
    for number in range(WARM_UP_ROUNDS + rounds):
        order = (raw, ours) if number % 2 else (ours, raw)
        times = {function: seconds_of(function, texts) for function in order}
        if number >= WARM_UP_ROUNDS:
            pairs.append((times[ours], times[raw]))
    mine, others = zip(*pairs, strict=True)
    return statistics.median(mine), statistics.median(others), statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    texts = read_abstracts()
    megabytes = pc.sum(pc.binary_length(texts)).as_py() / 1e6
    found = Counter(finding.kind for result in ours(texts) for finding in result.findings)
    print(f"{len(texts)} abstracts, {megabytes:.1f} MB; found: {dict(found)}")
    ratios = {}
    for name, array in (("planted", plant(texts)), ("as they are", texts)):
        mine, other, ratios[name] = race(array, arguments.rounds)
        print(
            f"{name}: ours {mine:.3f} s ({megabytes / mine:.0f} MB/s), raw {other:.3f} s ({megabytes / other:.0f} MB/s), "
            f"ratio {ratios[name]:.2f}",
            flush=True,
        )
    print(json.dumps({"pii_tier1_vs_re2": round(ratios["as they are"], 3)}))


if __name__ == "__main__":
    main()
