"""`acclimate merge ADAPTER`: adapters added to the weights they belong to, as a model of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.places import StoreOption, store_root

if TYPE_CHECKING:
    from cluster.storage import Store
    from jobs.merging import Part


def merge(
    adapter: Annotated[
        str, typer.Argument(help="Name or key of an artifact trained with `lora`, or a directory in PEFT's format.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Model artifact or directory; default: what the adapters were trained on.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(help="Name of the new model artifact, or a directory (with a /). Default: ADAPTER-merged."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Add adapters to the weights of their base model, tensor by tensor in fp32, and write a model."""
    from cluster.storage import open_store
    from jobs.merging import merge_into, merge_into_artifact

    opened = open_store(store_root(store))
    parts = _parts(adapter, base, opened)
    if into is not None and ("/" in into or into == "."):
        target = open_store(into)
        how = merge_into(parts[0].directory, parts[1].directory, target)
        typer.echo(f"model: {target.root} ({how})")
        return
    _require_language_model(parts[0])
    name = into or f"{Path(adapter).name}-merged"
    made = merge_into_artifact(opened, name, *parts)
    how = made.record["settings"]["how"]
    typer.echo(f"model {made.name} ({made.kind}-{made.key}, {how}): {made.content.path('model')}")


def _parts(adapter: str, base: str | None, store: "Store") -> "tuple[Part, Part]":
    """The adapters and their base."""
    from cluster.artifacts import find_named
    from cluster.storage import open_store
    from configs.schema.run import MODEL_KINDS
    from jobs.merging import Part, adapters_of, base_named_by

    if _is_directory(adapter):
        own = Part(open_store(adapter), None)
        base = base or base_named_by(own.directory)
    else:
        trained = find_named(store, adapter, (*MODEL_KINDS, "reward"))
        own = Part(trained.content.below("adapter"), trained)
        if base is None:
            found = adapters_of(store, trained).base
            return own, Part(found.content.below("model"), found)
    if _is_directory(base):
        return own, Part(open_store(base), None)
    chosen = find_named(store, base, MODEL_KINDS)
    return own, Part(chosen.content.below("model"), chosen)


def _is_directory(name: str) -> bool:
    return name.startswith("s3://") or Path(name).is_dir()


def _require_language_model(adapter: "Part") -> None:
    """A model artifact is a language model; what scores instead is a directory of its own."""
    from jobs.merging import MergeError

    if adapter.artifact is not None and adapter.artifact.kind == "reward":
        raise MergeError(f"{adapter.artifact.name} scores answers; merge it into a directory: --into ./DIRECTORY")
