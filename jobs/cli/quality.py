"""`data filter`: what quality rules would drop, by rule, with samples and what it costs in tokens; drops nothing."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.places import StoreOption, load_config
from jobs.cli.plan import ConfigArgument, JsonOption, OverridesArgument

if TYPE_CHECKING:
    from jobs.inspection.quality import FilterReport, RuleReport, SetReport, SourceReport


def filter_documents(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    store: StoreOption = None,
    stage: Annotated[str | None, typer.Option("--stage", help="One corpus stage; default: all of them.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Rows read of every source.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show what the rules of `quality`, and those of Gopher, C4 and FineWeb, would drop of every source; drops nothing."""
    reports = _reports(config, overrides, store, stage, limit)
    if as_json:
        print(json.dumps([asdict(report) for report in reports], indent=2, ensure_ascii=False))  # noqa: T201 - data
        return
    console = Console()
    for report in reports:
        for source in report.sources:
            _show_source(report, source, console)


def _reports(
    config: str, overrides: list[str] | None, store: str | None, wanted: str | None, limit: int
) -> "list[FilterReport]":
    from cluster.storage import Patience, open_store
    from configs.errors import UserError
    from jobs.inspection.quality import filter_report, token_counter
    from jobs.pipeline import plan_run

    loaded = load_config(config, overrides, store)
    opened = open_store(loaded.run.store, Patience.PROBE)
    stages = {planned.name: planned for planned in plan_run(loaded.run, opened)}
    corpora = {name: planned.stage for name, planned in stages.items() if planned.stage.stage == "corpus"}
    if wanted is not None and wanted not in corpora:
        raise UserError(f"--stage {wanted}: the corpus stages of {config} are {', '.join(corpora) or 'none'}")
    reports = []
    for name in corpora if wanted is None else [wanted]:
        count, tokens_by = token_counter(name, stages, opened)
        reports.append(filter_report(name, corpora[name], limit, count, tokens_by))
    return reports


def _show_source(report: "FilterReport", source: "SourceReport", console: Console) -> None:
    whole = "all" if report.complete else "the first"
    languages = ", ".join(f"{code} {share:.0%}" for code, share in source.languages.items())
    console.rule(Text(f"{report.stage} · {source.source}"), align="left")
    console.print(
        Text(
            f"{whole} {source.documents:,} documents, {source.tokens:,} tokens ({report.tokens_by}); languages: "
            f"{languages or 'none'}"
        )
    )
    if source.set_aside:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in source.set_aside.items())
        console.print(Text(f"set aside before any rule: {reasons}", style="yellow"))
    if source.without_spaces:
        console.print(
            f"{source.without_spaces:,} documents are in scripts without spaces between words: rules about words do not judge "
            "them, and they stay.",
            style="yellow",
        )
    if not any(found.name == "config" for found in source.sets):
        console.print("No rule gates here (`quality` sets none). What the published ones would drop:")
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    table.add_column("rule", overflow="fold")
    for column in ("threshold", "5 %", "50 %", "95 %", "drops", "only it", "tokens"):
        table.add_column(column, justify="right")
    for found in source.sets:
        name = "quality of the config" if found.name == "config" else f"preset {found.name}"
        table.add_row(name, "", "", "", "", f"{found.share:.1%}", "", f"{found.tokens:,}", style="bold cyan")
        for rule in found.rules:
            table.add_row(*_cells(rule), style="" if rule.dropped else "dim")
    console.print(table, highlight=False)
    for found in source.sets:
        _show_samples(found, console)
    console.print()


def _cells(rule: "RuleReport") -> list[str]:
    values = [_number(value) for value in rule.percentiles.values()] or ["-"] * 3
    return [
        rule.rule, _number(rule.threshold), *values, f"{rule.share:.1%}", f"{rule.only_share:.1%}", f"{rule.tokens:,}",
    ]  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _show_samples(found: "SetReport", console: Console) -> None:
    """By rule: value, file and row, and the beginning of the text, on a line each; `--json` has the whole place."""
    for rule in found.rules:
        if rule.samples:
            console.print(Text(f"{found.name}: {rule.rule} {_number(rule.threshold)}", style="bold"))
        for sample in rule.samples:
            line = Text(f"  {_number(sample.value)}  ")
            line.append(sample.uri.rpartition("/")[2], style="cyan")
            line.append(f"  {sample.excerpt}", style="dim")
            console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
