"""S3 for `neuneu.core.storage`: the file system of this process, and its errors as ours.

Endpoint, region and credentials come from the usual AWS variables and files.
"""

import functools
import os
from typing import Any, Final

from neuneu.core.errors import NeuneuError, StorageError, UserError
from neuneu.core.redaction import without_secrets

# HTTP: conflict (another writes it now) and precondition failed (another wrote it).
TAKEN: Final = (409, 412)
_TOO_MANY_REQUESTS: Final = 429
# Enough to sit out a minute of 503s: waits double up to 20 s.
_ATTEMPTS: Final = 10
_POOL_CONNECTIONS: Final = 32


def file_system() -> Any:
    """Return the `s3fs.S3FileSystem` of this process for the current AWS variables.

    Raises:
        UserError: s3fs is not installed.
    """
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return _file_system(frozenset(aws.items()))


@functools.lru_cache(maxsize=4)
def _file_system(aws: frozenset[tuple[str, str]]) -> Any:  # noqa: ARG001 - the cache's key
    """Make a file system; others write too, so it caches no listings, and callers run threads."""
    try:
        import s3fs
    except ImportError as error:
        raise UserError("s3:// needs s3fs: pip install 'neuneu[cluster]'.") from error
    return s3fs.S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,
        max_concurrency=1,
        # botocore itself reads AWS_DEFAULT_REGION and the config file only.
        client_kwargs={"region_name": os.environ.get("AWS_REGION") or None},
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
            "max_pool_connections": _POOL_CONNECTIONS,
        },
    )


def translate(error: Exception, address: str) -> NeuneuError | None:
    """Return an error of s3fs as ours, in one line and without secrets.

    None means that the error is raised as it is: a missing file, and what is not S3's.
    """
    from aiohttp import ClientError
    from botocore import exceptions as boto

    text = without_secrets(f"{type(error).__name__}: {error}".rstrip(".: "))
    status = http_status(error)
    broken = (ClientError, boto.ConnectionError, boto.HTTPClientError, TimeoutError)
    if error_code(error) == "NoSuchBucket":
        bucket = address.removeprefix("s3://").partition("/")[0]
        return UserError(f"{address}: bucket {bucket} does not exist; create it or name another.")
    if isinstance(error, FileNotFoundError):
        return None
    if isinstance(error, PermissionError):
        return UserError(
            f"{address}: S3 refuses access ({text}); check the AWS credentials "
            "(AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and the bucket's policy."
        )
    if isinstance(error, broken) or status in {*TAKEN, _TOO_MANY_REQUESTS} or status >= 500:
        return StorageError(
            f"{address}: S3 failed although retried ({text}); check AWS_ENDPOINT_URL and the "
            "network, or try later."
        )
    if isinstance(error, boto.BotoCoreError | ValueError) or status:
        return UserError(
            f"{address}: S3 cannot be used ({text}); check AWS_ENDPOINT_URL, AWS_REGION and the "
            "credentials."
        )
    return None


def error_code(error: BaseException) -> str:
    """Return S3's name of an error, such as NoSuchBucket, or an empty string."""
    return str(_response(error, "Error").get("Code", ""))


def http_status(error: BaseException) -> int:
    """Return the HTTP status behind an error, or 0 if there was no response."""
    return int(_response(error, "ResponseMetadata").get("HTTPStatusCode", 0))


def _response(error: BaseException, part: str) -> dict[str, Any]:
    response = getattr(error.__cause__, "response", None) or {}
    return dict(response.get(part, {}))
