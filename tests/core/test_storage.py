"""Folders on disk and on S3: the same calls, whole files, clear errors without secrets."""

import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import ACCESS_KEY, SECRET_KEY, S3Server

from neuneu.core import s3 as s3_module
from neuneu.core import storage
from neuneu.core.errors import StorageError, UserError
from neuneu.core.storage import Folder


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(tmp_path / "folder")
    return Folder(f"s3://{request.getfixturevalue('s3').bucket}/deep/folder")


def on_s3(s3: S3Server) -> Folder:
    return Folder(f"s3://{s3.bucket}/deep/folder")


def test_folder_write_then_read_list_delete(folder: Folder) -> None:
    assert folder.files() == {}
    assert not folder.exists("a/b.txt")
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"three")
    folder.write("c.bin", b"")
    folder.write("a/.half.tmp", b"unfinished")
    assert folder.read("a/b.txt") == b"three"
    assert folder.exists("a/b.txt")
    assert not folder.exists("a")
    assert folder.files() == {"a/b.txt": 5, "c.bin": 0}
    assert folder.files(".txt") == {"a/b.txt": 5}
    assert (folder / "a").files() == {"b.txt": 5}
    folder.delete("a/b.txt")
    folder.delete("a/b.txt")
    assert folder.files() == {"c.bin": 0}


def test_folder_missing_file_is_file_not_found(folder: Folder, tmp_path: Path) -> None:
    folder.write("other", b"x")
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    with pytest.raises(FileNotFoundError):
        folder.read("other/none")
    with pytest.raises(FileNotFoundError), folder.open("none"):
        pass
    with pytest.raises(FileNotFoundError):
        folder.download("none", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_folder_open_reads_places_of_a_file(folder: Folder) -> None:
    folder.write("digits", b"0123456789")
    with folder.open("digits") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read(2) == b"78"
        file.seek(1)
        assert file.read(3) == b"123"


def test_folder_create_leaves_an_earlier_file_alone(folder: Folder) -> None:
    assert folder.create("x/y", b"first")
    assert not folder.create("x/y", b"second")
    assert folder.create("x/y", b"first")
    assert folder.read("x/y") == b"first"
    assert folder.files() == {"x/y": 5}


def test_folder_create_by_many_at_once_has_one_winner(folder: Folder) -> None:
    n, barrier, won = 8, threading.Barrier(8), []

    def claim(index: int) -> None:
        barrier.wait()
        if folder.create("claim", b"%d" % index):
            won.append(index)

    threads = [threading.Thread(target=claim, args=(index,)) for index in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("claim") == b"%d" % won[0]


def test_folder_survives_pickling(folder: Folder) -> None:
    folder.write("x", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert hash(copy) == hash(folder)
    assert copy.read("x") == b"1"


@pytest.mark.parametrize("size", [0, 1, 1000, 4096, 40_001])
def test_folder_download_copies_files_of_any_size(
    folder: Folder, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_RANGE_BYTES", 1000)
    content = os.urandom(size)
    folder.write("model", content)
    folder.download("model", tmp_path / "new" / "model")
    assert (tmp_path / "new" / "model").read_bytes() == content
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    "address",
    ["https://u:hunter2@host/x", "s3://", "s3:///x", "gs://bucket", "s3://u:hunter2@bucket/x"],
)
def test_folder_other_address_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(UserError, match="expected a local path or s3://") as caught:
        Folder(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_local_without_permission_is_a_user_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="permission denied"):
        Folder(tmp_path).write("x", b"1")


def test_s3_files_of_many_folders_are_one_listing(s3: S3Server) -> None:
    folder = on_s3(s3)
    names = [f"units/run{index % 7}/{index:04d}" for index in range(21)]
    for name in names:
        folder.write(name, b"12")
    before = len(s3.requests)
    assert folder.files() == dict.fromkeys(sorted(names), 2)
    assert len(s3.requests) - before == 1


def test_s3_503_for_some_requests_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    folder = on_s3(s3)
    calls: list[Callable[[], object]] = [
        lambda: folder.write("x", b"abc"),
        lambda: folder.read("x"),
        folder.files,
        lambda: folder.create("y", b"1"),
        lambda: folder.download("x", tmp_path / "x"),
        lambda: folder.delete("y"),
    ]
    for call in calls:
        s3.fail_with_503(1)
        call()
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert folder.files() == {"x": 3}


def test_s3_503_for_good_is_a_storage_error(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 2)
    monkeypatch.setenv("AWS_TEST_RUN", "503")  # another file system, of two attempts
    folder = on_s3(s3)
    folder.write("x", b"abc")
    s3.fail_with_503(1000)
    for call in (folder.exists, lambda name: folder.write(name, b"d")):
        with pytest.raises(StorageError, match="although retried"):
            call("x")
    s3.fail_with_503(0)
    assert folder.read("x") == b"abc"


def test_s3_connection_cut_in_a_body_is_mended(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_RANGE_BYTES", 10_000)
    folder, content = on_s3(s3), os.urandom(35_000)
    folder.write("model", content)
    s3.cut_after(3000, times=3)
    folder.download("model", tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == content
    s3.cut_after(3000, times=2)
    assert folder.read("model") == content
    s3.cut_after(10, times=1)
    with folder.open("model") as file:
        assert file.read(100) == content[:100]


def test_s3_connection_cut_for_good_leaves_nothing(s3: S3Server, tmp_path: Path) -> None:
    folder = on_s3(s3)
    folder.write("model", os.urandom(5000))
    s3.cut_after(1000, times=1000)
    with pytest.raises(StorageError, match="although retried"):
        folder.download("model", tmp_path / "model")
    with pytest.raises(StorageError), folder.open("model") as file:
        file.read(2000)
    assert list(tmp_path.iterdir()) == []


def test_s3_file_replaced_during_download_is_noticed(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_RANGE_BYTES", 100)
    monkeypatch.setattr(storage, "_RANGES_AT_ONCE", 1)
    folder = on_s3(s3)
    folder.write("model", b"a" * 300)
    s3.when("GET", at=2, do=lambda: s3.put("deep/folder/model", b"b" * 300))
    with pytest.raises(StorageError, match="replaced during"):
        folder.download("model", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_s3_file_replaced_while_open_is_noticed(s3: S3Server) -> None:
    folder = on_s3(s3)
    folder.write("table", b"a" * 300)
    with folder.open("table") as file:
        file.read(10)
        folder.write("table", b"b" * 300)
        with pytest.raises(OSError):
            file.read(10)


def test_s3_create_whose_answer_was_lost_has_created(s3: S3Server) -> None:
    s3.lose_answers("PUT", times=1)
    assert on_s3(s3).create("x", b"mine")
    assert s3.count("PUT", "/x") == 2


def test_s3_missing_bucket_is_a_user_error(s3: S3Server) -> None:
    folder = Folder("s3://no-such-bucket-here/a")
    for call in (folder.read, folder.exists, folder.files, lambda name: folder.write(name, b"d")):
        with pytest.raises(UserError, match="bucket no-such-bucket-here does not exist"):
            call("x")


def test_s3_refused_access_is_a_user_error_without_secrets(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "test-session-token")
    s3.refuse_access(f"{ACCESS_KEY} with {SECRET_KEY} and test-session-token is not known")
    with pytest.raises(UserError, match=r"refuses access .*\*\*\* with") as caught:
        on_s3(s3).read("x")
    for secret in (ACCESS_KEY, SECRET_KEY, "test-session-token"):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_s3_endpoint_without_server_is_a_storage_error_without_secrets(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as caught:
        on_s3(s3).files()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_ENDPOINT_URL", "not a url"), ("AWS_ACCESS_KEY_ID", "")]
)
def test_s3_unusable_settings_are_a_user_error(
    s3: S3Server, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="check AWS_ENDPOINT_URL"):
        on_s3(s3).read("x")


def test_the_test_server_takes_what_arrows_client_sends(s3: S3Server) -> None:
    """Ray writes its states through Arrow, whose client sends parts in chunks."""
    from pyarrow import fs

    there = fs.S3FileSystem(
        endpoint_override=s3.endpoint, region="us-east-1", access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
    )  # fmt: skip
    with there.open_output_stream(f"{s3.bucket}/deep/state.json") as stream:
        stream.write(b"{}" * 1000)
    assert Folder(f"s3://{s3.bucket}/deep").read("state.json") == b"{}" * 1000


def test_local_listing_has_regular_files_only(tmp_path: Path) -> None:
    """A pipe would not end when it is read, and a link to itself ended the listing."""
    (tmp_path / "file").write_text("1234")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "nothing").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert Folder(tmp_path).files() == {"file": 4, "link": 4}
