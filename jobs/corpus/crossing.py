"""Documents that one input of a mix trains on and another holds out: what the held-out loss of the mix would be wrong by.

    documents/ of all inputs --(document, input, split), by document--> those on both sides, a partition at a time

Sides follow from content, but corpora may be split by other fractions or seeds, or by clusters that differ.
"""

# pyarrow.compute makes its functions when it is imported:
# pyright: reportAttributeAccessIssue=false

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.storage import Store
from jobs.corpus.document_rows import DOCUMENTS
from jobs.corpus.partitions import Progress, Read, Report, Write
from jobs.corpus.schema import DataError, partitions_of, read_table

SIDE_SCHEMA = pa.schema(
    [("partition", pa.int32()), ("document_id", pa.int64()), ("input", pa.int32()), ("heldout", pa.bool_())]
)

RunPartitions = Callable[[list[Report], Read, Write, int, str, Progress], list[Report]]


def check_apart(
    name: str,
    inputs: Mapping[str, Store],
    manifests: Mapping[str, Mapping[str, Any]],
    partitions: int,
    progress: Progress,
    run: RunPartitions,
) -> None:
    """Raises DataError where a document is on both sides of the split, naming the two inputs; or an input says no documents.

    Args:
        name: of the mix.
        run: `run_partitions`.
    """
    units = []
    for number, (each, manifest) in enumerate(manifests.items()):
        files = {file: entry for file, entry in manifest["files"].items() if file.startswith(DOCUMENTS)}
        if not files:
            raise DataError(f"stages.{name}: {each} has no {DOCUMENTS}, it is of an earlier version; build it again")
        units += [
            {"input": number, "of": each, "name": file, "sha256": entry["sha256"]} for file, entry in files.items()
        ]

    def read(unit: dict[str, Any]) -> Iterator[pa.Table]:
        table = read_table(inputs[unit["of"]], unit["name"], unit["sha256"], ["document_id", "split"])
        ids = table["document_id"].to_numpy()
        yield pa.table(
            {
                "partition": partitions_of(ids, partitions), "document_id": ids,
                "input": np.full(len(ids), unit["input"], dtype=np.int32), "heldout": pc.equal(table["split"], "heldout"),
            },
            schema=SIDE_SCHEMA,
        )  # fmt: skip

    def write(partition: int, rows: pa.Table) -> Report:
        del partition
        held, trained = (
            rows.filter(side).group_by(["document_id", "input"]).aggregate([])  # a document has several stretches
            for side in (rows["heldout"], pc.invert(rows["heldout"]))
        )
        # Within one input a document may be on both sides on purpose (jobs/corpus/document_rows.py).
        both = held.join(trained, "document_id", join_type="inner", right_suffix="_trained")
        both = both.filter(pc.not_equal(both["input"], both["input_trained"]))
        pairs = zip(both["input"].to_pylist(), both["input_trained"].to_pylist(), strict=True)
        return {"crossing": [[*pair, count] for pair, count in sorted(Counter(pairs).items())]}

    found: Counter[tuple[int, int]] = Counter()
    for report in run(units, read, write, partitions, "mix, documents", progress):
        found.update({(held, trained): count for held, trained, count in report["crossing"]})
    if found:
        names = [*manifests]
        (held, trained), count = max(sorted(found.items()), key=lambda item: item[1])
        raise DataError(
            f"stages.{name}: {count:,} documents that {names[held]} holds out are trained on in {names[trained]}; their held-out "
            "loss would say nothing. Give both corpora the same `heldout_fraction` and `split_seed`, and build one "
            "`near_duplicates.against` the other, or leave one of them out"
        )
