"""The hub's branches and files, and what its failures become."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuneu.core.errors import CheckpointError, TransientError, UserError
from neuneu.scoring.checkpoints import hub as hub_module

if TYPE_CHECKING:
    from hub_server import HubServer


REPO = "org/model"
LARGE = bytes(range(256)) * 40


@pytest.fixture
def commit(hub: "HubServer") -> str:
    return hub.add(REPO, "step10", {"config.json": b"{}", "model.safetensors": LARGE})


def test_list_branches_gives_commits(hub: "HubServer", commit: str) -> None:
    main = hub.add(REPO, "main", {})
    assert hub_module.list_branches(REPO) == {"step10": commit, "main": main}


def test_list_files_of_commit_gives_sizes_and_hashes(hub: "HubServer", commit: str) -> None:
    hub.repos[REPO]["step10"]["training/optim.pt"] = b"not at the top"
    files = hub_module.list_files(REPO, commit)
    assert set(files) == {"config.json", "model.safetensors"}
    assert (files["config.json"].size, files["config.json"].sha256) == (2, None)
    assert files["model.safetensors"].size == len(LARGE)
    assert files["model.safetensors"].sha256 == hashlib.sha256(LARGE).hexdigest()


def test_download_follows_redirect_without_token(
    hub: "HubServer", commit: str, tmp_path: Path
) -> None:
    hub_module.download(REPO, commit, "model.safetensors", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == LARGE
    assert hub.tokens_at_store == {None}
    assert hub_module.read(REPO, commit, "config.json") == b"{}"


def test_read_large_file_keeps_token_from_store(hub: "HubServer", commit: str) -> None:
    assert hub_module.read(REPO, commit, "model.safetensors") == LARGE
    assert hub.tokens_at_store == {None}


def test_token_is_sent_to_hub(hub: "HubServer", commit: str) -> None:
    hub_module.list_branches(REPO)
    hub_module.list_files(REPO, commit)
    hub_module.read(REPO, commit, "config.json")
    assert hub.tokens == {"Bearer hf_test_token"}


def test_busy_hub_is_asked_again(hub: "HubServer", commit: str) -> None:
    hub.fail_with_503(2)
    assert "step10" in hub_module.list_branches(REPO)
    hub.fail_with_503(2)
    assert hub_module.read(REPO, commit, "config.json") == b"{}"


def test_busy_hub_in_the_end_is_transient(hub: "HubServer", commit: str, tmp_path: Path) -> None:
    hub.fail_with_503(100)
    with pytest.raises(TransientError, match=r"org/model: the hub answered 503\."):
        hub_module.list_branches(REPO)
    hub.fail_with_503(100)
    with pytest.raises(TransientError, match="answered 503"):
        hub_module.list_files(REPO, commit)


def test_cut_download_goes_on_where_it_was(hub: "HubServer", commit: str, tmp_path: Path) -> None:
    hub.cut_after(1000, times=1)
    hub_module.download(REPO, commit, "model.safetensors", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == LARGE
    assert hub.count("GET", "store:model.safetensors") == 2


def test_unreachable_hub_is_transient(
    hub: "HubServer", commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.close()
    with pytest.raises(TransientError, match="org/model: the connection failed"):
        hub_module.list_branches(REPO)


@pytest.mark.parametrize(
    "place",
    [("org/none", "step10", "config.json"), (REPO, "step11", "config.json"), (REPO, "step10", "x")],
)
def test_what_is_not_there_is_an_error_at_once(
    hub: "HubServer", commit: str, tmp_path: Path, place: tuple[str, str, str]
) -> None:
    repo, revision, name = place
    message = f"{name} of {repo} at {revision}: .*HF_TOKEN"
    with pytest.raises(CheckpointError, match=message) as reading:
        hub_module.read(repo, revision, name)
    with pytest.raises(CheckpointError, match=message) as downloading:
        hub_module.download(repo, revision, name, tmp_path)
    assert not isinstance(reading.value, TransientError)
    assert not isinstance(downloading.value, TransientError)
    assert len(hub.requests) == 2
    assert not (tmp_path / name).exists()


def test_list_branches_of_missing_repository(hub: "HubServer") -> None:
    with pytest.raises(CheckpointError, match=r"org/none: not found on the hub.*status 404"):
        hub_module.list_branches("org/none")


@pytest.mark.parametrize("path", ["/resolve/", "store:"])
def test_refused_download_is_an_error_at_once(
    hub: "HubServer", commit: str, tmp_path: Path, path: str
) -> None:
    hub.fail_with(403, 10**6, path)
    with pytest.raises(CheckpointError, match=r"hidden from you \(status 403") as error:
        hub_module.download(REPO, commit, "model.safetensors", tmp_path)
    assert not isinstance(error.value, TransientError)
    assert not (tmp_path / "model.safetensors").exists()


def test_offline_is_the_users_choice(hub: "HubServer", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        hub_module.list_branches(REPO)


@pytest.mark.parametrize("uri", ["hf://org/model", "hf://model@main", "s3://org/model@main"])
def test_parse_uri_refuses_other_addresses(uri: str) -> None:
    with pytest.raises(UserError, match="expected hf://org/repo@branch"):
        hub_module.parse_uri(uri)


def test_parse_uri_reads_make_uri() -> None:
    uri = hub_module.make_uri(REPO, "step1-seed-a/b")
    assert hub_module.parse_uri(uri) == (REPO, "step1-seed-a/b")
