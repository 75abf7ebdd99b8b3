"""Checkpoints on a Hugging Face hub: branches of a repository, and files of a revision.

The address of a checkpoint is `hf://org/repo@branch`. `HF_ENDPOINT` selects another hub, `HF_TOKEN`
gives access to private and gated repositories; both are read when they are needed. Requests are
made here and not by `HfApi`, which has neither time limits nor retries.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from neuneu.core.errors import CheckpointError, TransientError, UserError
from neuneu.data.checkpoints import StoredFile

SCHEME: Final = "hf://"
_TIMEOUT_S: Final = 30.0
_WAIT_S: Final = 1.0  # before a retry; doubled up to 8 s, five times
_RETRY_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_HIDDEN: Final = frozenset({401, 403, 404})


def make_uri(repo: str, branch: str) -> str:
    """Return the address of a branch, such as `hf://org/repo@step1000`."""
    return f"{SCHEME}{repo}@{branch}"


def parse_uri(uri: str) -> tuple[str, str]:
    """Return the repository and branch of an address.

    Raises:
        UserError: another address.
    """
    repo, _, branch = uri.removeprefix(SCHEME).partition("@")
    if not uri.startswith(SCHEME) or repo.count("/") != 1 or not branch:
        raise UserError(f"{uri}: expected hf://org/repo@branch.")
    return repo, branch


def list_branches(repo: str) -> dict[str, str]:
    """Return the commits (sha) of a repository's branches by name.

    Raises:
        CheckpointError: no such repository, or this user has no access.
        TransientError: the hub failed.
        UserError: offline mode is set (HF_HUB_OFFLINE).
    """
    with _errors(repo):
        refs = _get(f"/api/models/{repo}/refs").json()
        return {str(ref["name"]): str(ref["targetCommit"]) for ref in refs["branches"]}


def list_files(repo: str, revision: str) -> dict[str, StoredFile]:
    """Return the files at the top of a revision by name.

    Raises:
        CheckpointError, TransientError, UserError: as `list_branches`, for the revision.
    """
    with _errors(f"{repo} at {revision}"):
        path = f"/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        return {
            file["rfilename"]: StoredFile(
                size=int(file["size"]), sha256=(file.get("lfs") or {}).get("sha256")
            )
            for file in _get(path).json()["siblings"]
            if "/" not in file["rfilename"]
        }


def read(repo: str, revision: str, name: str) -> bytes:
    """Return the content of a small file.

    Raises:
        CheckpointError, TransientError, UserError: as `list_branches`, for the file.
    """
    with _errors(f"{name} of {repo} at {revision}"):
        return bytes(_get(f"/{repo}/resolve/{quote(revision, safe='')}/{quote(name)}").content)


def download(repo: str, revision: str, name: str, folder: Path) -> None:
    """Copy a file into a folder, whole or not at all; this also leaves `.cache` there.

    Raises:
        CheckpointError, TransientError, UserError: as `list_branches`, for the file.
        OSError: the disk is full.
    """
    with _errors(f"{name} of {repo} at {revision}"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        hf_hub_download(repo, name, revision=revision, local_dir=folder, endpoint=_endpoint())


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _get(path: str) -> Any:
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    response = http_backoff(
        "GET",
        _endpoint() + path,
        headers=build_hf_headers(),
        timeout=_TIMEOUT_S,
        base_wait_time=_WAIT_S,
    )
    hf_raise_for_status(response)
    return response


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn errors of the hub into ours, without URLs: that of a redirect may hold a signature."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError("hf:// needs huggingface_hub: pip install 'neuneu[cluster]'.") from error
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{what}: HF_HUB_OFFLINE is set; unset it to reach the hub.") from None
    except errors.HfHubHTTPError as error:
        raise _refusal(what, error.response.status_code) from error
    except errors.LocalEntryNotFoundError as error:
        # How a download reports a hub that it cannot reach, or that refuses.
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refusal(what, error.__cause__.response.status_code) from error
        reason = type(error.__cause__ or error).__name__
        raise TransientError(f"{what}: the hub cannot be reached ({reason}).") from error
    except (errors.HTTPError, errors.XetDownloadError, ConnectionError, TimeoutError) as error:
        raise TransientError(f"{what}: the connection failed ({type(error).__name__}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # such as the page of a proxy
        raise TransientError(
            f"{what}: expected JSON from the hub, found something else."
        ) from error
    except OSError as error:
        if error.errno is not None:  # from the disk
            raise
        raise TransientError(f"{what}: the download is incomplete.") from error


def _refusal(what: str, status: int) -> CheckpointError:
    if status in _RETRY_LATER:
        return TransientError(f"{what}: the hub answered {status}.")
    if status in _HIDDEN:
        return CheckpointError(
            f"{what}: not found on the hub, or hidden from you (status {status}); check the "
            "name, or set HF_TOKEN if it is private or gated."
        )
    return CheckpointError(f"{what}: the hub refuses it (status {status}).")
