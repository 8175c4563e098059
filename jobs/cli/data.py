"""`data check` and `data preview`: what a run would learn from, before anything starts.

`data filter` is in quality.py, `data card` (of what is finished) in card.py.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.card import card
from jobs.cli.places import StoreOption, load_config
from jobs.cli.plan import ConfigArgument, JsonOption, OverridesArgument
from jobs.cli.quality import filter_documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.inspection.check import DataReport
    from jobs.inspection.preview import PreviewRow
    from jobs.inspection.sample import Sample

app = typer.Typer(
    name="data",
    help="Look at data: of a run file formats, counts, lengths, real rows as they are learnt, what filters would drop; of what "
    "is finished a data card.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("filter")(filter_documents)
app.command()(card)

StageOption = Annotated[str | None, typer.Option("--stage", help="One shards stage; default: all of them.")]


@app.command()
def check(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = None,
    stage: StageOption = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows read of every source.")] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Say what the sources are read as, how long rows are, and what would not be learnt; exit code 2 where a gate fails."""
    from jobs.corpus.schema import DataError
    from jobs.inspection.check import check_sample

    reports = [check_sample(name, sample) for name, sample in _samples(config, overrides, store, stage, rows)]
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False))  # noqa: T201 - data
    else:
        for report in reports:
            _show_report(report, Console())
    failed = [f"stages.{report.stage}: {sentence}" for report in reports for sentence in report.failed]
    if failed:
        raise DataError("\n".join(failed))


@app.command()
def preview(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = None,
    stage: StageOption = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows shown of every stage.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Show real rows: what is learnt stands out, what is only read is dimmed."""
    from jobs.inspection.preview import preview_rows

    # A few more are read than shown: some are set aside, and a thumb needs an answer to another prompt.
    shown = {name: preview_rows(sample, rows) for name, sample in _samples(config, overrides, store, stage, rows + 50)}
    if as_json:
        document = {name: [asdict(row) for row in found] for name, found in shown.items()}
        print(json.dumps(document, indent=2, ensure_ascii=False))  # noqa: T201 - data
        return
    console = Console()
    for name, found in shown.items():
        for row in found:
            _show_row(name, row, console)


def _samples(
    config: str, overrides: list[str] | None, store: str | None, wanted: str | None, rows: int
) -> "Iterator[tuple[str, Sample]]":
    from cluster.storage import Patience, open_store
    from configs.errors import UserError
    from configs.schema.run import ARTIFACT_PREFIX
    from jobs.inspection.sample import sample_documents, sample_rows
    from jobs.pipeline import plan_run

    loaded = load_config(config, overrides, store)
    opened = open_store(loaded.run.store, Patience.PROBE)
    stages = {planned.name: planned for planned in plan_run(loaded.run, opened)}
    names = [name for name, planned in stages.items() if planned.stage.stage == "shards"]
    if wanted is not None and wanted not in names:
        raise UserError(f"--stage {wanted}: the shards stages of {config} are {', '.join(names) or 'none'}")
    if not names:
        raise UserError(
            f"{config} has no shards stage, which says what rows are to be made; add one with `rows` and `context`"
        )
    documents: dict[str, Any] = {}
    for name in names if wanted is None else [wanted]:
        shards = stages[name].stage
        assert shards.stage == "shards", name
        if shards.corpus.startswith(ARTIFACT_PREFIX):
            raise UserError(
                f"stages.{name}.corpus is a finished artifact; `acclimate ls` and its quarantine/ tell about it"
            )
        if shards.corpus not in documents:
            corpus = stages[shards.corpus].stage
            assert corpus.stage == "corpus", shards.corpus
            documents[shards.corpus] = sample_documents(corpus, rows)
        yield name, sample_rows(stages[name], stages, opened, documents[shards.corpus])


def _show_report(report: "DataReport", console: Console) -> None:
    whole = "all" if report.complete else "the first"
    console.print(
        f"[bold]{report.stage}[/bold]  rows: {report.rows}, context {report.context}; {whole} {report.sampled:,} rows read"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    for source, formats in report.verdicts.items():
        found = ", ".join(f"{count:,} as {name}" for name, count in formats.items()) or "nothing that could be read"
        unread = ", ".join(f"`{column}`" for column in report.ignored[source])
        table.add_row("source", f"{source}: {found}" + (f"; not read: {unread}" if unread else ""))
    table.add_row("kept", f"{report.train:,} for training, {report.heldout:,} held out")
    if report.left_out:
        table.add_row("left out", f"{report.left_out:,} documents of another kind than `rows: {report.rows}`")
    lengths = ", ".join(f"{name} {value:,}" for name, value in report.lengths.items())
    table.add_row("tokens", f"{lengths}; {report.tokens:,} in all, {report.learnt_tokens:,} learnt")
    table.add_row("cut off", f"{report.truncated:,} at the context, {report.lost_tokens:,} tokens")
    if report.cut_rows["count"]:
        table.add_row("without end", _places(report.cut_rows, "rows that lose their end token"))
    packed = report.rows in ("text", "messages")
    table.add_row("fill", f"{report.fill:.1%} of {'packed rows' if packed else 'the context by an answer'}")
    for reason, found in report.set_aside.items():
        table.add_row("set aside", _places(found, reason))
    console.print(table, highlight=False)
    console.print()


def _places(found: dict[str, Any], what: str) -> str:
    """ "12 too_long: a.jsonl#3, a.jsonl#9, ..." """
    more = ", ..." if found["count"] > len(found["places"]) else ""
    return f"{found['count']:,} {what}: {', '.join(found['places'])}{more}"


def _show_row(stage: str, row: "PreviewRow", console: Console) -> None:
    console.rule(Text(f"{stage} · {row.uri} · {row.split}"), align="left")
    for segment in row.segments:
        cut = f", {segment.cut_tokens} cut off" if segment.cut_tokens else ""
        title = f"{segment.title}: " if segment.title else ""
        console.print(Text(f"{title}{segment.learnt_tokens} of {segment.tokens} tokens learnt{cut}", style="bold cyan"))
        text = Text()
        for run in segment.runs:
            text.append(run.text, style="" if run.learnt else "dim")
        console.print(text)
