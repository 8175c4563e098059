"""`ls`, `lineage`, `gc`, `schema`: the verbs that look."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from jobs.cli.places import StoreOption, open_for_looking

SHOWN_DIGITS = 12
"""Of a file's hash, as many as git shows of a commit in a large repository."""
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def ls(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List runs and finished artifacts."""
    from cluster.artifacts import list_artifacts
    from cluster.runs import list_runs

    opened = open_for_looking(store)
    runs, artifacts = list_runs(opened), list_artifacts(opened)
    if as_json:
        records = [{**artifact.record, "path": artifact.content.root} for artifact in artifacts]
        _print_json({"store": opened.root, "runs": runs, "artifacts": records})
        return
    table = _table("run", "status", "stage", "started")
    for run in runs:
        table.add_row(run["run_id"], run["status"], run["stage"] or "", _age(run["created_at"]))
    Console().print(table)
    table = _table("artifact", "kind", "key", "size", "finished")
    for artifact in artifacts:
        size = sum(file["size"] for file in artifact.record["files"])
        table.add_row(artifact.name, artifact.kind, artifact.key, _size(size), _age(artifact.record["finished_at"]))
    Console().print(table)


def lineage(
    name: Annotated[str, typer.Argument(help="Name or key of an artifact.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from a model to the documents and licences it was made of."""
    from cluster.artifacts import ancestors, find_named

    opened = open_for_looking(store)
    top = find_named(opened, name)
    records = {f"{artifact.kind}-{artifact.key}": artifact.record for artifact in [top, *ancestors(opened, top)]}
    if as_json:
        _print_json({"artifact": f"{top.kind}-{top.key}", "records": records})
        return
    tree = Tree(_lineage_line(top.record))
    _grow(tree, top.record, records)
    Console().print(tree)


def gc(
    store: StoreOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove; without it only show.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also checkpoints that no config's newest run would go on from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what nothing needs: attempts that led nowhere, and what lies beside finished artifacts. Never an artifact."""
    from cluster.collect import collect, remove

    opened = open_for_looking(store)
    collected = collect(opened, unfinished)
    total = sum(item.bytes for item in collected.leftovers)
    if as_json:
        found = {"leftovers": collected.leftovers, "kept": collected.kept}
        rows = {name: [vars(item) for item in items] for name, items in found.items()}
        _print_json({"removed": yes, "bytes": total, **rows})
    elif collected.leftovers:
        table = _table("leftover", "size", "why")
        for item in collected.leftovers:
            table.add_row(item.path, _size(item.bytes), item.why)
        Console().print(table)
    screen = Console(stderr=True)
    removed = [yes and remove(opened, item) for item in collected.leftovers]
    for item, gone in zip(collected.leftovers, removed, strict=True):
        if yes and not gone:
            screen.print(f"{item.path}: kept, somebody writes there now", highlight=False, soft_wrap=True)
    kept = sum(item.bytes for item in collected.kept)
    screen.print(
        f"{_size(total)} in {len(removed)} leftovers"
        + (", removed" if yes and all(removed) else "; --yes removes them" if removed and not yes else ""),
        highlight=False,
    )
    if collected.kept:
        screen.print(f"{_size(kept)} kept that unfinished runs can go on from", highlight=False)


def schema() -> None:
    """Print the JSON Schema of run files, for editors."""
    from configs.loader import schema as described

    _print_json(described())


def _grow(tree: Tree, record: dict[str, Any], records: dict[str, dict[str, Any]]) -> None:
    for role, key in record["parents"].items():
        branch = tree.add(f"[dim]{role}[/dim]  {_lineage_line(records[key])}")
        _grow(branch, records[key], records)
    for uri, size, fingerprint in record["config"].get("inputs", []):
        kind, _, digest = fingerprint.partition(":")
        tree.add(f"[dim]document file[/dim]  {uri}  {_size(size)}  {kind}:{digest[:SHOWN_DIGITS]}")


def _lineage_line(record: dict[str, Any]) -> str:
    licences = ", ".join(record["licences"]) or "no licence recorded"
    allowed = (
        f"  [dim]may: {', '.join(record['allowed']) or 'only be measured on'}[/dim]" if "allowed" in record else ""
    )
    return f"[bold]{record['name']}[/bold]  {record['kind']}-{record['key']}  {licences}{allowed}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    return table


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _age(moment: float) -> str:
    seconds = time.time() - moment
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - data goes to stdout
