"""Broken files of every format, made from whole ones: whatever a file holds, reading it ends, within time and memory, with rows
and reasons.

    case(seed) -> name, bytes, format -> worker process (RLIMIT_AS, a deadline) -> read_file -> documents, reasons | what went wrong

`make fuzz` reads FUZZ_FILES=10000 of them from FUZZ_SEED=1 on; a seed alone makes the file again:
`python -m tests.corpus.fuzz_readers --show 4711`. What must hold:

- reading ends within DEADLINE_S and MEMORY_BYTES, and the process that read is still there;
- nothing is raised but DataError;
- every row is a Raw whose text is UTF-8, or a Rejected with a reason that is known, and there is at least one.
"""

import argparse
import functools
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from configs.schema.corpus import Source
from jobs.corpus.raw import READING_REASONS, Raw, Rejected
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError
from tests.corpus.broken_files import Case, case

CORPUS = Path(__file__).parents[2] / "jobs" / "corpus"

DEADLINE_S = 120.0
"""The slowest case (a PDF that draws until its memory ends) takes some seconds on a free core; the machine may be busy."""
MEMORY_BYTES = 6 << 30
"""Address space of the worker: Arrow and numpy reserve 2 GiB, and a row of MAX_ROW_BYTES may take 30 times as much."""
MAKING_S = 600.0


def read_case(made: Case, directory: Path) -> str:
    """What came of it: counts of documents and reasons. Raises AssertionError, and whatever the reader may not raise."""
    path = directory / made.name
    path.write_bytes(made.content)
    source = Source(path=str(path), format=made.format, licence="CC0-1.0")  # pyright: ignore[reportArgumentType]
    outcomes = Counter[str]()
    try:
        for row in read_file(str(path), made.name, source):
            if isinstance(row, Raw):
                row.text.encode()
                outcomes["document"] += 1
            else:
                assert isinstance(row, Rejected), row
                assert row.reason in known_reasons(), f"{row.reason} is in no table of reasons"
                assert len(row.detail) < 4000, f"{row.reason} is told in {len(row.detail)} characters"
                row.detail.encode()
                outcomes[row.reason] += 1
        assert outcomes, "neither a row nor a reason"
    except DataError as error:
        assert len(str(error)) < 6000, f"DataError of {len(str(error))} characters"
        outcomes["DataError"] += 1
    finally:
        path.unlink()
    return json.dumps(outcomes)


@functools.cache
def known_reasons() -> frozenset[str]:
    """READING_REASONS, and every word that convert.py and its neighbours spell: what rows lack has its reasons there."""
    words = set(READING_REASONS)
    for name in ("convert.py", "messages.py", "judgements.py", "pubmed.py", "formats.py"):
        with (CORPUS / name).open("rb") as source:
            strings = (token.string for token in tokenize.tokenize(source.readline) if token.type == tokenize.STRING)
            words |= {string.strip('"') for string in strings}
    return frozenset(words)


def worker() -> None:
    """Reads seeds from stdin, a line each, and answers each with a line of JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_DIRECTORY")) as directory:
        for line in sys.stdin:
            seed = int(line)
            try:
                made = case(seed)
                _say({"made": f"{made.name}, {made.how}, format: {made.format}"})
                answer = {"outcome": read_case(made, Path(directory))}
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                place = error.__traceback__
                while place is not None and place.tb_next is not None:
                    place = place.tb_next
                where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
                answer = {"failure": f"{type(error).__name__}: {str(error)[:200]} ({where})"}
            _say(answer)


def _say(answer: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Finding:
    """A file that broke a rule. Example: Finding(4711, "a.pdf, flip, format: auto", "the worker ended with -11")"""

    seed: int
    made: str
    what: str


def fuzz(seeds: Iterable[int]) -> Iterator[tuple[int, str, float] | Finding]:
    """For each seed what came of it and after how many seconds, or what went wrong."""
    process = None
    for seed in seeds:
        if process is None:
            command = [sys.executable, "-m", "tests.corpus.fuzz_readers", "--worker"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"%d\n" % seed)
        process.stdin.flush()
        # Making a large file takes longer than reading it does, and proves nothing.
        made = json.loads(_line(process.stdout, MAKING_S) or b"{}").get("made", "not made")
        began = time.monotonic()
        line = _line(process.stdout, DEADLINE_S)
        took = time.monotonic() - began
        if line:
            answer = json.loads(line)
            yield Finding(seed, made, answer["failure"]) if "failure" in answer else (seed, answer["outcome"], took)
            continue
        what = "the worker ended" if process.poll() is not None else f"no answer after {took:.0f} s"
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        yield Finding(seed, made, f"{what} ({process.returncode})")
        process = None
    if process is not None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()


def _line(stream: IO[bytes], patience_s: float) -> bytes:
    """A line, empty where none comes."""
    ready, _, _ = select.select([stream], [], [], patience_s)
    return stream.readline() if ready else b""


def main() -> int:
    parser = argparse.ArgumentParser(description="Read broken files of every format.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, metavar="SEED", help="write the file of a seed below the working directory")
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return 0
    if arguments.show is not None:
        made = case(arguments.show)
        Path(made.name).write_bytes(made.content)
        print(f"{made.name}: {made.how}, format: {made.format}, {len(made.content):,} bytes")
        return 0
    began, outcomes, findings, slowest = time.monotonic(), Counter[str](), [], (0.0, 0)
    for answer in fuzz(range(arguments.seed, arguments.seed + arguments.files)):
        if isinstance(answer, Finding):
            findings.append(answer)
            print(f"seed {answer.seed} ({answer.made}): {answer.what}", flush=True)
            continue
        seed, outcome, took = answer
        outcomes.update(json.loads(outcome))
        slowest = max(slowest, (took, seed))
    print(
        f"{arguments.files:,} files from seed {arguments.seed} in {time.monotonic() - began:.0f} s; slowest {slowest[0]:.1f} s (seed {slowest[1]})"
    )
    for name, count in outcomes.most_common():
        print(f"  {count:>9,} {name}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
