"""What must import without the heavy libraries does, and source files keep the budgets of the house."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import configs
import configs.schema
import jobs.cli

CHECKOUT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "vllm", "transformers")
FILE_LINES, FUNCTION_LINES = 300, 60
"""What can be read in one go: a file in a few minutes, a function on one screen."""

LIGHT_CLUSTER = ("artifacts", "checkout", "collect", "kill_points", "lease", "runs", "storage", "store_errors")
"""What looking at a store needs; `session` and `submit` talk to Ray."""


def _submodules(package: object) -> list[str]:
    name, path = package.__name__, package.__path__  # pyright: ignore[reportAttributeAccessIssue] - a package
    return [name, *(f"{name}.{found.name}" for found in pkgutil.iter_modules(path) if found.name != "__main__")]


LIGHT = [
    *_submodules(configs), *_submodules(configs.schema), *_submodules(jobs.cli), "jobs.records",
    *(f"cluster.{name}" for name in LIGHT_CLUSTER),
]  # fmt: skip


def _imported(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter after `statement`."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_modules_that_look_and_plan_import_nothing_heavy() -> None:
    assert {"configs.loader", "configs.schema.run", "jobs.cli.run"} <= set(LIGHT)
    imported = _imported("import " + ", ".join(LIGHT))
    assert set(LIGHT) <= imported
    assert imported.isdisjoint(HEAVY)


def test_the_command_line_needs_no_more_than_typer_to_say_what_it_can() -> None:
    imported = _imported("import jobs.cli")
    assert "typer" in imported
    assert imported.isdisjoint((*HEAVY, "pydantic", "numpy", "pyarrow", "fsspec", "s3fs", "yaml"))


def test_a_heavy_import_would_be_seen() -> None:
    assert "ray" in _imported("import cluster.session")


SOURCES = [
    path
    for folder in ("configs", "cluster", "jobs", "serving", "tests")
    for path in sorted((CHECKOUT / folder).rglob("*.py"))
]


def _long_parts(source: str) -> list[str]:
    """The file itself, and functions, that are longer than the budget."""
    long = [f"{len(source.splitlines())} lines"] if len(source.splitlines()) > FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                long.append(f"{node.name} has {lines} lines")
    return long


def _swallowing(source: str) -> list[str]:
    """Handlers that catch everything, or nearly, and do nothing."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(statement, ast.Pass) for statement in node.body):
            caught = node.type.id if isinstance(node.type, ast.Name) else None
            if node.type is None or caught in ("Exception", "BaseException"):
                found.append(f"line {node.lineno}")
    return found


@pytest.mark.parametrize("look", [_long_parts, _swallowing])
def test_every_source_can_be_read_and_hides_no_error(look) -> None:
    found = {path.relative_to(CHECKOUT).as_posix(): look(path.read_text()) for path in SOURCES}
    assert len(found) > 100
    assert {name: parts for name, parts in found.items() if parts} == {}


def test_what_is_looked_for_is_found() -> None:
    assert _long_parts("\n" * 301) == ["301 lines"]
    assert _long_parts("def f():\n" + "    x = 1\n" * 60) == ["f has 61 lines"]
    assert _long_parts("def f():\n" + "    x = 1\n" * 59) == []
    for caught in ("except Exception:", "except:", "except BaseException:"):
        assert _swallowing(f"try:\n    f()\n{caught}\n    pass\n") == ["line 3"]
    assert _swallowing("try:\n    f()\nexcept KeyError:\n    pass\n") == []
