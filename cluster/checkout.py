"""What of this checkout travels to a cluster whose hosts share no disk with us.

The four import roots, the configs and whatever small files lie beside them; not the results, the tests, the virtual
environment, the history, nor files that are likely to hold secrets. Ray uploads the copy once (it is addressed by content)
and every node unpacks it as the working directory.
"""

import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from configs.errors import UserError

CHECKOUT = Path(__file__).resolve().parent.parent

LEFT_OUT = (
    "artifacts", "tests", ".venv", "venv", ".git", ".ci", "wandb", "build", "dist", "node_modules",
    "__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache", ".import_linter_cache", "*.egg-info", "*.log",
    ".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials", "credentials.*", "*credentials*.json",
    "*service*account*.json", "secrets.*", "auth_token", "kubeconfig", ".kube", ".aws", ".ssh", ".netrc", ".pypirc",
    ".npmrc", ".git-credentials",
)  # fmt: skip
"""Names in small letters, at any depth, that stay at home: results and caches, then what usually holds secrets."""

LIMIT_MIB = 20
"""The code is about 1 MiB. Whatever is 20 times that is data, which belongs in the store: every node downloads this copy."""


class CheckoutTooLarge(UserError):
    """The files that would travel exceed LIMIT_MIB; the message names the largest."""


@dataclass(frozen=True)
class ShippedFile:
    path: str
    """Relative to the checkout."""
    size: int


def shipped_files(root: Path = CHECKOUT) -> list[ShippedFile]:
    """The files that travel, sorted by path. Symbolic links are not followed and do not travel."""
    found = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(name for name in subdirectories if not _left_out(name))
        for name in names:
            path = Path(directory, name)
            if not _left_out(name) and path.is_file() and not path.is_symlink():
                found.append(ShippedFile(str(path.relative_to(root)), path.stat().st_size))
    return sorted(found, key=lambda file: file.path)


def _left_out(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in LEFT_OUT)


def require_shippable(files: list[ShippedFile], root: Path = CHECKOUT) -> None:
    """Raises CheckoutTooLarge."""
    total_mib = sum(file.size for file in files) / 2**20
    if total_mib <= LIMIT_MIB:
        return
    largest = sorted(files, key=lambda file: file.size, reverse=True)[:5]
    lines = [f"  {file.size / 2**20:8.1f} MiB  {file.path}" for file in largest]
    raise CheckoutTooLarge(
        f"{root} holds {total_mib:.1f} MiB that would be copied to every node; the limit is {LIMIT_MIB} MiB. Largest files:\n"
        + "\n".join(lines)
        + "\nMove data to the store (s3://...) or below artifacts/, and name it there in the config."
    )


def copy_checkout(target: Path, root: Path = CHECKOUT) -> None:
    """Copies what travels into `target`. Raises CheckoutTooLarge before anything is written."""
    files = shipped_files(root)
    require_shippable(files, root)
    for file in files:
        (target / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file.path, target / file.path)
