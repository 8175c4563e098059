"""How well and how fast layout is stripped: precision and recall by kind, megabytes a second of one core.

    python -m tests.benchmarks.layout

The last line is one JSON object.
"""

import json
import time

from configs.schema.layout import Layout
from jobs.corpus.layout import strip_layout
from tests.world.papers.fixtures import abstracts, generated, hand_written
from tests.world.papers.labelled import score

PAPER, WEB = Layout(document="paper"), Layout(document="web")
WRAPPED_MEGABYTES = 10


def main() -> None:
    results: dict[str, object] = {}
    print(f"{'part':<10}{'fixtures':<14}{'kind':<22}{'precision':>10}{'recall':>8}{'hits':>7}{'false':>7}{'missed':>7}")
    for part in ("tuned", "heldout"):
        written = hand_written(part)
        pages = [document for document in written if any(label == "boilerplate" for label, _ in document.lines)]
        for name, documents, layout in (
            ("papers", list(generated(part)), PAPER),
            ("web", list(generated(part, web=True)), WEB),
            ("by hand", [document for document in written if document not in pages], PAPER),
            ("by hand, web", pages, WEB),
        ):
            for kind, counts in score(documents, layout).items():
                if counts.hits + counts.misses + counts.false_alarms:
                    results[f"{part}/{name}/{kind}"] = [round(counts.precision, 4), round(counts.recall, 4)]
                    print(
                        f"{part:<10}{name:<14}{kind:<22}{counts.precision:>10.3f}{counts.recall:>8.3f}{counts.hits:>7}{counts.false_alarms:>7}{counts.misses:>7}"
                    )
    for name, texts, layout in (
        ("abstracts, paper", abstracts(), PAPER),
        ("abstracts, web", abstracts(), WEB),
        ("prose in lines of 80, paper", in_lines(), PAPER),
        ("generated papers, paper", [document.text for document in generated("heldout")], PAPER),
    ):
        results[f"MB/s {name}"] = speed = round(megabytes_per_second(texts, layout), 2)
        print(f"{name:<40}{speed:>8.1f} MB/s")
    print(json.dumps(results))


def in_lines() -> list[str]:
    """Documents of 100 kB without layout, wrapped as an extractor leaves prose."""
    import textwrap

    whole = "\n\n".join(
        textwrap.fill(text, 80, break_on_hyphens=False) for text in abstracts()[: WRAPPED_MEGABYTES * 600]
    )
    return [whole[start : start + 100_000] for start in range(0, len(whole), 100_000)]


def megabytes_per_second(texts: list[str], layout: Layout) -> float:
    """By processor time: the machine may be busy."""
    started = time.process_time()
    for text in texts:
        strip_layout(text, layout)
    return sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - started)


if __name__ == "__main__":
    main()
