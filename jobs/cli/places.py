"""Which store a verb means. The same answer for every verb:

    --store  >  store=... among the overrides  >  ACCLIMATE_STORE  >  `store:` of the run file  >  artifacts

The first that is given counts. Verbs without a run file skip what stands in one.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.storage import Store
    from configs.loader import Loaded

STORE_VARIABLE = "ACCLIMATE_STORE"
DEFAULT_STORE = "artifacts"
OVERRIDE = "store="

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="DIRECTORY|s3://...", show_default=False,
        help=f"Where runs and artifacts are kept. Without it: {STORE_VARIABLE}, then `store:` of the run file, then "
        f"./{DEFAULT_STORE}.",
    ),
]  # fmt: skip


def store_root(option: str | None) -> str:
    """The store of a verb that reads no run file."""
    return option or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE


def load_config(config: str, overrides: list[str] | None, option: str | None) -> "Loaded":
    """A run file whose `store` is the one that counts. Raises ConfigError, also where the command line names two stores."""
    from configs.loader import ConfigError, load_run

    given = list(overrides or ())
    named = [override.removeprefix(OVERRIDE) for override in given if override.startswith(OVERRIDE)]
    if option is not None and named and named[-1] != option:
        raise ConfigError(f"--store {option} and {OVERRIDE}{named[-1]} name two stores; give one")
    chosen = option or (None if named else os.environ.get(STORE_VARIABLE))
    if chosen:
        given.append(OVERRIDE + json.dumps(chosen, ensure_ascii=False))
    return load_run(config, tuple(given))


def load(config: str, overrides: list[str] | None, store: str | None) -> "tuple[Loaded, Store]":
    """A run file and the store that counts, opened. Raises ConfigError."""
    from cluster.storage import open_store

    loaded = load_config(config, overrides, store)
    return loaded, open_store(loaded.run.store)


def open_for_looking(option: str | None) -> "Store":
    """The store of a verb that only reads: an unreachable one is said soon, since nothing is lost by an error.

    Raises NoStore where --store names a directory that is not there: nothing is in it, but hardly because nothing was done.
    """
    from cluster.storage import NoStore, Patience, open_store

    store = open_store(store_root(option), Patience.PROBE)
    if option is not None and not store.root.startswith("s3://") and not Path(store.root).is_dir():
        raise NoStore(
            f"--store {option}: there is no directory {store.root}. Give the one that `store:` of your runs names."
        )
    return store


def store_argument(root: str) -> str:
    """What has to be added to a suggested command so that it finds this store from the same shell."""
    import shlex

    return "" if root == store_root(None) else f" --store {shlex.quote(root)}"
