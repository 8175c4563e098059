"""A real S3 server over HTTP for tests: moto in a process of its own."""

import json
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

from tests.world.server_process import serving

REGION = "us-east-1"
"""moto creates buckets without a location constraint only there, as AWS does."""


@dataclass(frozen=True)
class Credentials:
    """What S3 clients need besides the address."""

    access_key: str
    secret_key: str


ANYONE = Credentials("any", "any")
"""moto takes every signature until `require_credentials` was called."""

ALLOW_S3 = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}


@dataclass(frozen=True)
class S3Server:
    """A running server. `url` is what AWS_ENDPOINT_URL must be."""

    url: str

    def environment(self, credentials: Credentials = ANYONE) -> dict[str, str]:
        """The variables a process needs to use this server."""
        return s3_environment(self.url, credentials)

    def new_bucket(self) -> str:
        """Creates an empty bucket and returns its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self._client("s3").create_bucket(Bucket=name)
        return name

    @contextmanager
    def required_credentials(self) -> Iterator[Credentials]:
        """Inside, requests must be signed by the user that is yielded; all else is answered 403."""
        iam = self._client("iam")
        user = f"user-{uuid.uuid4().hex[:12]}"
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="s3", PolicyDocument=json.dumps(ALLOW_S3))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        self._check_signatures_after(requests=0)
        try:
            yield Credentials(key["AccessKeyId"], key["SecretAccessKey"])
        finally:
            self._check_signatures_after(requests=float("inf"))

    def _check_signatures_after(self, requests: float) -> None:
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=str(requests).encode(), headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=10).close()

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=ANYONE.access_key,
            aws_secret_access_key=ANYONE.secret_key,
        )


def s3_environment(url: str, credentials: Credentials = ANYONE) -> dict[str, str]:
    """The AWS_* variables for an endpoint; the machine's own AWS files are kept out."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Runs a server on a free port of `address`, with nothing in it."""
    with serving("tests.world.s3_server", address, "0") as port:
        yield S3Server(f"http://{address}:{port}")
