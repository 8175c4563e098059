"""The first rows of every source, read before anything starts: a wrong format or a wrong key shows in all of them.

A bad row among good ones is no reason to refuse a source: it goes to quarantine with its place (jobs/corpus/collect.py).
"""

from collections.abc import Sequence
from itertools import islice

from cluster.storage import Store
from configs.schema.corpus import CorpusStage
from jobs.corpus.hub_files import PREFIX
from jobs.corpus.inputs import InputFile
from jobs.corpus.raw import Raw
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError
from jobs.corpus.unpack import is_packed

PROBED_ROWS = 20
"""Of a file: one readable row among them shows that the format is right."""
SHOWN_ROWS = 3
MAGIC = {
    b"PAR1": "it is a Parquet file",
    b"\x1f\x8b": "it is gzip: name it .gz",
    b"\x28\xb5\x2f\xfd": "it is zstd: name it .zst",
    b"PK\x03\x04": "it is a zip archive",
    b"%PDF": "it is a PDF",
}
"""First bytes of files that are often taken for text."""


def check_sources(stage_name: str, stage: CorpusStage, inputs: Sequence[InputFile]) -> None:
    """Raises DataError where no row at the beginning of any file of a source can be read, with file, row and reason."""
    for name, source in stage.sources.items():
        files = [file for file in inputs if file.source == name]
        told: list[str] = []
        for file in files:
            rows = list(islice(read_file(file.location, file.uri, source), PROBED_ROWS))
            if any(isinstance(row, Raw) for row in rows):
                break
            told += [f"{row.uri}: {row.reason}: {row.detail}{_magic(file)}" for row in rows if not isinstance(row, Raw)]
            if len(told) >= PROBED_ROWS:
                raise _unreadable(stage_name, name, source.format, told)
        else:
            raise _unreadable(stage_name, name, source.format, told)


def _unreadable(stage_name: str, name: str, expected: str, told: list[str]) -> DataError:
    lines = "\n".join(f"  {line}" for line in told[:SHOWN_ROWS])
    more = f"\n  and {len(told) - SHOWN_ROWS} more" if len(told) > SHOWN_ROWS else ""
    return DataError(
        f"stages.{stage_name}.sources.{name}: no row can be read as `format: {expected}`:\n{lines}{more}\n"
        "Mend the rows, or give the `format` and the files that fit (`acclimate schema` describes both)."
    )


def _magic(file: InputFile) -> str:
    if is_packed(file.uri) or file.uri.startswith(PREFIX):
        return ""
    folder, _, name = file.location.rpartition("/")
    first = Store(folder).read_range(0, 4, name)
    return "".join(f" ({meaning})" for magic, meaning in MAGIC.items() if first.startswith(magic))
