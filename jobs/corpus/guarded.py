"""PDF and HTML -> text in a process that may crash, hang or grow without the reader doing so.

Shown, and the reason: a PDF of 41 KB whose one page draws four million letters took 2.2 GB in pdfium (ten times the page would
be 22 GB: the end of a node), and 200,000 attributes in one HTML tag cost resiliparse minutes, inside C where no signal reaches.
A process costs about 80 ms of CPU. Every PDF has one; of HTML only pages that could be slow (jobs/corpus/html.py).
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from jobs.corpus.raw import RowError

CPU_S = 120
"""A thousand pages take some seconds. CPU time, not time: what a corpus holds must not depend on how busy its machine was."""
WALL_S = 3600
"""For what waits without computing, which nothing of it should; far above CPU_S on a machine that has other work."""
MEMORY_BYTES = 4 << 30
"""Address space. pdfium alone reserves several hundred MiB of it."""


def guarded_text(kind: str, content: bytes) -> str:
    """The text of a document. Raises RowError: as the child says, `too_slow`, or `crashed` with the signal."""
    command = [
        sys.executable,
        "-P",
        str(Path(__file__).with_name("guarded_child.py")),
        kind,
        str(CPU_S),
        str(MEMORY_BYTES),
    ]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise RowError("too_slow", f"no text after {WALL_S} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise RowError("too_slow", f"no text after {CPU_S} s of CPU time")
    if done.returncode != 0:
        raise RowError("crashed", _how_it_ended(done))
    answer = json.loads(done.stdout)
    if "reason" in answer:
        raise RowError(answer["reason"], answer["detail"])
    return answer["text"]


def _how_it_ended(done: "subprocess.CompletedProcess[bytes]") -> str:
    if done.returncode < 0:
        return (
            f"its reader ended by {signal.Signals(-done.returncode).name}; at most {MEMORY_BYTES >> 30} GiB of memory"
        )
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"its reader failed: {lines[-1][:200] if lines else f'exit code {done.returncode}'}"
