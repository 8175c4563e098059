"""Documents that several inputs of a mix have: on both sides of the split, and twice on one.

    documents/ of all inputs --(document, input, split), by document--> those of several inputs, a partition at a time

What one input trains on and another holds out makes the held-out loss of the mix wrong, and is refused. Sides follow from
content, but corpora may be split by other fractions or seeds, or by clusters that differ. What two inputs train on is in
the mix more often than its share says; that is told.
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


def shared_documents(
    name: str,
    inputs: Mapping[str, Store],
    manifests: Mapping[str, Mapping[str, Any]],
    partitions: int,
    progress: Progress,
    run: RunPartitions,
) -> dict[str, int]:
    """How many documents two inputs both train on, by their names: {"papers and wiki": 12}.

    Args:
        name: of the mix.
        run: `run_partitions`.

    Raises:
        DataError: a document is on both sides of the split; names the two inputs. Or an input says no documents.
    """
    units = _units(name, manifests)

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
        return {
            "crossing": _pairs(held, trained),
            "shared": [each for each in _pairs(trained, trained) if each[0] < each[1]],
        }

    crossing: Counter[tuple[int, int]] = Counter()
    shared: Counter[tuple[int, int]] = Counter()
    for report in run(units, read, write, partitions, "mix, documents", progress):
        for counts, told in ((crossing, report["crossing"]), (shared, report["shared"])):
            counts.update({(left, right): count for left, right, count in told})
    names = [*manifests]
    _check_apart(name, names, crossing)
    return {f"{names[left]} and {names[right]}": count for (left, right), count in sorted(shared.items())}


def _units(name: str, manifests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    units: list[dict[str, Any]] = []
    for number, (each, manifest) in enumerate(manifests.items()):
        files = {file: entry for file, entry in manifest["files"].items() if file.startswith(DOCUMENTS)}
        if not files:
            raise DataError(f"stages.{name}: {each} has no {DOCUMENTS}, it is of an earlier version; build it again")
        units += [
            {"input": number, "of": each, "name": file, "sha256": entry["sha256"]} for file, entry in files.items()
        ]
    return units


def _check_apart(name: str, names: list[str], crossing: Counter[tuple[int, int]]) -> None:
    if crossing:
        (held, trained), count = max(sorted(crossing.items()), key=lambda item: item[1])
        raise DataError(
            f"stages.{name}: {count:,} documents that {names[held]} holds out are trained on in {names[trained]}; their held-out "
            "loss would say nothing. Give both corpora the same `heldout_fraction` and `split_seed`, and build one "
            "`near_duplicates.against` the other, or leave one of them out"
        )


def _pairs(left: pa.Table, right: pa.Table) -> list[list[int]]:
    """[left input, right input, documents that they have both], of different inputs."""
    both = left.join(right, "document_id", join_type="inner", right_suffix="_right")
    both = both.filter(pc.not_equal(both["input"], both["input_right"]))
    counted = Counter(zip(both["input"].to_pylist(), both["input_right"].to_pylist(), strict=True))
    return [[*pair, count] for pair, count in sorted(counted.items())]
