"""What went wrong with a store, and what mends it, in the words of the service that refused."""

import errno
import os
import tempfile

from configs.errors import DoesNotFit, Unreachable

FULL = (errno.ENOSPC, errno.EDQUOT)

REMEDIES = {
    "NoSuchBucket": "Create the bucket, or correct its name in `store`.",
    "AccessDenied": "The credentials are known but may not do this: allow s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:ListBucket on the bucket and prefix.",
    "InvalidAccessKeyId": "Set AWS_ACCESS_KEY_ID to a key that this service knows.",
    "SignatureDoesNotMatch": "Set AWS_SECRET_ACCESS_KEY to the secret of that AWS_ACCESS_KEY_ID.",
    "ExpiredToken": "The credentials have expired: renew them, AWS_SESSION_TOKEN among them.",
    "RequestTimeTooSkewed": "The clock of this machine is wrong: set it (`timedatectl set-ntp true`).",
    "RequestExpired": "The clock of this machine is wrong: set it (`timedatectl set-ntp true`).",
    "PermanentRedirect": "The bucket is in another region: set AWS_DEFAULT_REGION to it.",
    "AuthorizationHeaderMalformed": "The bucket is in another region: set AWS_DEFAULT_REGION to it.",
    "IllegalLocationConstraintException": "The bucket is in another region: set AWS_DEFAULT_REGION to it.",
    "NoCredentialsError": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of this process.",
}
"""By S3's error code (or botocore's class) what to do. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""

LOCAL_REMEDIES = {
    errno.EROFS: "The disk is mounted read-only: mount it for writing, or set `store` to another directory or s3://.",
    errno.EACCES: "Give this user the right to write there (`ls -ld`), or set `store` to a directory of its own.",
    errno.ENOTDIR: "It, or what stands above it, is a file: set `store` to a directory.",
    errno.EPERM: "Give this user the right to write there (`ls -ld`), or set `store` to a directory of its own.",
}


class StorageError(Unreachable, RuntimeError):
    """The store cannot be reached, read or written; the message says what to check."""


class DiskFull(StorageError, DoesNotFit):
    """The store's disk, or its quota, has no room left."""

    exit_code = DoesNotFit.exit_code


def storage_error(root: str, is_s3: bool, error: Exception) -> StorageError:
    """What to raise for `error`, met at a store with that root."""
    code = error.errno if isinstance(error, OSError) else None
    if code in FULL:
        assert code is not None
        if is_s3:  # S3 has no such number: it is the scratch of this machine
            return DiskFull(
                f"the disk of {tempfile.gettempdir()}: {os.strerror(code)}. Free some, or set TMPDIR to another."
            )
        return DiskFull(
            f"{root}: {os.strerror(code)}. Free some (`df -h {root}`; `acclimate gc` shows what runs left), or set `store` to "
            "another disk or s3://."
        )
    reason = f"{type(error).__name__}: {error}".strip()
    if not is_s3:
        remedy = LOCAL_REMEDIES.get(code or 0, f"Check the directory's owner and `df -h {root}`.")
        return StorageError(f"{root} cannot be read or written ({reason}). {remedy}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "the default AWS endpoint")
    known = next((REMEDIES[name] for name in _codes(error) if name in REMEDIES), None)
    remedy = known or ("Check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and that the bucket exists.")
    return StorageError(f"{root} cannot be reached or written through {endpoint} ({reason}). {remedy}")


def is_missing_bucket(error: Exception) -> bool:
    """Whether a file is not there because its whole bucket is not: no reader may take that for an empty store."""
    return "NoSuchBucket" in _codes(error)


def _codes(error: BaseException | None) -> list[str]:
    """S3's codes in an error and in what it was raised from: s3fs translates the first and keeps the second."""
    found: list[str] = []
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            found.append(str(response.get("Error", {}).get("Code")))
        found.append(type(error).__name__)
        if "bucket does not exist" in str(error):
            found.append("NoSuchBucket")
        error = error.__cause__
    return found
