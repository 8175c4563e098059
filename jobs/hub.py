"""What models and data sets on a hub (HF_ENDPOINT) have in common: pinned commits, the token, and its answers as errors of ours.

The token comes from HF_TOKEN and from nowhere else: a token file in somebody's home would make a run work on one node and
fail on the next.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")


@contextmanager
def explained(repository: str, revision: str | None, raises: type[UserError]) -> Iterator[None]:
    """Whatever the hub answers, as an error of the class `raises`."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    endpoint = os.environ.get("HF_ENDPOINT", "the public hub")
    try:
        yield
    except RevisionNotFoundError as error:
        raise raises(f"{repository} on {endpoint} has no revision {revision}.") from error
    except GatedRepoError as error:
        raise raises(
            f"{repository} on {endpoint} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account."
        ) from error
    except RepositoryNotFoundError as error:
        token = "HF_TOKEN is set, but may not read it" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        raise raises(
            f"{repository} is not on {endpoint}, or it is private ({token}). Check the name, or set HF_TOKEN in the "
            "environment of the run to a token that may read it."
        ) from error
    except (OfflineModeIsEnabled, HTTPError, EntryNotFoundError) as error:
        said = " ".join(str(error).split())[:200]
        raise raises(
            f"{endpoint} cannot be asked for {repository} ({type(error).__name__}: {said}). Check the network, HF_ENDPOINT, "
            "HF_TOKEN and HF_HUB_OFFLINE, or give a local directory or s3:// prefix instead."
        ) from error


def hub_token() -> str | bool:
    """False tells huggingface_hub to look for no token anywhere else."""
    return os.environ.get("HF_TOKEN") or False
