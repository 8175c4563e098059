"""`make install`: the right Python or a sentence, and a fresh start after an install that was cut off."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
# Stands for a Python of another version, and for venv and pip: what they are asked is written down.
case "$1 $2" in
  "-c "*) exec {real} -c "import platform, sys; sys.version_info = ({version}, 4); platform.python_version = lambda: '{shown}.4'
$2" ;;
  "-m venv") mkdir -p .venv/bin && rm -f .venv/.installing && cp "$0" .venv/bin/python && echo "venv $3" >> asked ;;
  "-m pip") [ "$3" = --version ] && exit 0; echo "pip $*" >> asked; case "$*" in *lock-cpu*) [ ! -e cut ] ;; esac ;;
esac
"""


@pytest.fixture
def make(tmp_path: Path):
    """`make` in a directory with this Makefile: called with a version of Python, it gives exit code and output."""
    for name in ("Makefile", "lock-cpu.txt", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)

    def run(version: tuple[int, int], *arguments: str) -> tuple[int, str]:
        python = tmp_path / "python"
        shown = ".".join(map(str, version))
        text = PYTHON.format(real=sys.executable, version=", ".join(map(str, version)), shown=shown)
        python.write_text(text)
        python.chmod(0o755)
        done = subprocess.run(
            ["make", *arguments, f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def asked(directory: Path) -> list[str]:
    path = directory / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [" ".join(line.split()[:2]) for line in lines]


def test_no_target_shows_the_targets(make) -> None:
    code, output = make((3, 11))
    assert code == 0 and "install" in output and "make help" not in output and "demo" in output


@pytest.mark.parametrize("version", [(3, 10), (3, 15), (4, 0)])
def test_another_python_is_refused_with_a_way_out(make, tmp_path: Path, version: tuple[int, int]) -> None:
    code, output = make(version, "install")
    assert code != 0 and f"is Python {version[0]}.{version[1]}.4; needed: 3.11" in output
    assert "make install PYTHON=" in output and "Traceback" not in output
    assert asked(tmp_path) == [] and not (tmp_path / ".venv").exists()


def test_no_python_at_all(make, tmp_path: Path) -> None:
    del make
    done = subprocess.run(
        ["make", "install", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "there is no no-such-python here" in done.stderr


def test_an_install_that_was_cut_off_begins_anew_and_a_whole_one_is_left_alone(make, tmp_path: Path) -> None:
    (tmp_path / "cut").touch()
    assert make((3, 11), "install")[0] != 0
    assert asked(tmp_path)[0] == "venv --clear"
    (tmp_path / "cut").unlink()
    code, output = make((3, 11), "install")
    assert code == 0, output
    assert asked(tmp_path) == ["venv --clear", "pip -m", "pip -m", "pip -m"]
    assert make((3, 11), "install")[0] == 0 and asked(tmp_path) == []
    (tmp_path / "lock-cpu.txt").touch()
    assert make((3, 11), "install")[0] == 0
    assert asked(tmp_path) == ["pip -m"] * 3, "another lock is installed into the environment that is there"
