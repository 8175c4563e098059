"""How fast one core does each step of corpus preparation, and how much it holds: what `plan --on 64x32CPU` calculates with.

    python tests/benchmarks/corpus_speed.py [--megabytes 50] [--only read,near]

The steps are the real code in one process, without Ray but for Ray Data's own functions of its shuffle. The texts are real
(artifacts/assets; `make demo` fetches them): 18,000 abstracts, and Wikipedia and web pages repeated with a number of their own
until there are --megabytes. CPU time of one core, so that other work on the machine counts little; memory is the growth of the
resident set at its peak (VmHWM). bytes_per_s is of what the step reads: files (unpacked) in `read`, text in most others.
Last line: one JSON object by step. The numbers stand as constants in jobs/estimate/corpus_rates.py.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.corpus_files import abstracts, pages  # noqa: E402 - the checkout is not on a script's path
from tests.benchmarks.corpus_measuring import size_of  # noqa: E402
from tests.benchmarks.corpus_partition_steps import clusters, contamination, driver, near, shard_refs, shards, write  # noqa: E402
from tests.benchmarks.corpus_text_steps import read, refined, rows  # noqa: E402

STEPS = {
    "read": read, "refined": refined, "rows": rows, "write": write, "near": near, "clusters": clusters,
    "contamination": contamination, "shards": shards, "driver": driver, "shard_refs": shard_refs,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--only", default=",".join(STEPS))
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    texts = pages(abstracts(), arguments.megabytes * 1e6)
    measured: dict[str, Any] = {"texts": {"documents": len(texts), "bytes": size_of(texts)}}
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as work:
            found = STEPS[name](texts, Path(work))
        print(f"{name}: {_short(found)}", flush=True)
        measured |= found
    print(json.dumps(_short(measured)))


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(one) for name, one in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
