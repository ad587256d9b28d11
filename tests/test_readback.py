"""A copy that is read back while it is written: only what was found equal is not read once more."""

import hashlib
import os
import threading

import numpy as np
import pytest

from exportkit.checkpoint import Bundle, BundleWriter, Copied, check_copied, data_file, encoding, readback
from exportkit.errors import WeightsError

VALUES = {
    "a": np.arange(1000, dtype=np.float32),
    "b": np.array([b"one", b"two"], object),
    "c": np.int64(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def source(tmp_path):
    with BundleWriter(tmp_path / "source") as made:
        for name, value in VALUES.items():
            made.add(name, value)
    return Bundle(tmp_path / "source")


@pytest.fixture
def copies(source, tmp_path, monkeypatch):
    """Copy the source, and say that the copy is old enough to show every later change by its time."""
    monkeypatch.setattr(readback, "_TICK_NS", -1)
    monkeypatch.setattr(data_file, "_STEP", 100)

    def copy():
        with BundleWriter(tmp_path / "copy", reads_back=True) as made:
            for name in VALUES:
                made.copy(name, source, name)
        return made.readback

    return copy


@pytest.fixture
def read(monkeypatch):
    """Record the tensors that the proof reads itself."""
    names, verify_part = [], Bundle.verify_part
    monkeypatch.setattr(Bundle, "verify_part", lambda b, entry, part: names.append(entry.key) or verify_part(b, entry, part))
    return names


def sources(source):
    return {name: (source, name) for name in VALUES}


def data(tmp_path):
    return tmp_path / "copy.data-00000-of-00001"


def change(path, position=5):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_what_was_read_back_is_not_read_again(source, copies, read, tmp_path):
    found = copies()
    size = sum(entry.size for entry in source.entries.values())
    assert check_copied(str(tmp_path / "copy"), sources(source), found) == Copied(len(VALUES), size)
    assert read == []


def test_without_a_read_back_every_tensor_is_read(source, copies, read, tmp_path):
    copies()
    check_copied(str(tmp_path / "copy"), sources(source))
    assert sorted(read) == sorted(VALUES)


def test_bytes_that_change_on_the_way_are_found(source, copies, tmp_path, monkeypatch):
    def copying(source, target, size, offset, at, kernel=os.copy_file_range):
        done = kernel(source, target, size, offset, at)
        os.pwrite(target, b"\xff", at)
        return done

    monkeypatch.setattr(os, "copy_file_range", copying)
    found = copies()
    with pytest.raises(WeightsError) as caught:
        check_copied(str(tmp_path / "copy"), sources(source), found)
    assert "the bytes of 'a' do not have their checksum" in str(caught.value)


def test_a_file_that_changes_after_it_was_read_back_is_read_again(source, copies, tmp_path):
    found = copies()
    change(data(tmp_path))
    with pytest.raises(WeightsError) as caught:
        check_copied(str(tmp_path / "copy"), sources(source), found)
    assert "the bytes of 'a' do not have their checksum" in str(caught.value)


def test_another_file_in_its_place_is_read(source, copies, read, tmp_path):
    found = copies()
    os.rename(data(tmp_path), tmp_path / "old")
    data(tmp_path).write_bytes((tmp_path / "old").read_bytes())
    check_copied(str(tmp_path / "copy"), sources(source), found)
    assert sorted(read) == sorted(VALUES)


def test_a_file_is_read_again_whose_time_cannot_show_a_change(source, copies, read, tmp_path, monkeypatch):
    monkeypatch.setattr(readback, "_TICK_NS", 3_600_000_000_000)
    found = copies()
    check_copied(str(tmp_path / "copy"), sources(source), found)
    assert sorted(read) == sorted(VALUES)


def test_a_file_that_was_written_just_now_is_not_read_again(source, read, tmp_path):
    with BundleWriter(tmp_path / "copy", reads_back=True) as made:
        for name in VALUES:
            made.copy(name, source, name)
    check_copied(str(tmp_path / "copy"), sources(source), made.readback)
    assert read == []


def test_a_copy_can_be_read_before_it_is_on_the_disk(source, tmp_path):
    with BundleWriter(tmp_path / "copy", reads_back=True) as made:
        for name in VALUES:
            made.copy(name, source, name)
        made.complete()
        assert Bundle(tmp_path / "copy").read("a").tolist() == VALUES["a"].tolist()
    check_copied(str(tmp_path / "copy"), sources(source), made.readback)


def test_a_copy_that_fails_after_it_was_complete_leaves_no_file(source, tmp_path):
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "copy", reads_back=True) as made:
        made.copy("a", source, "a")
        made.complete()
        raise ZeroDivisionError
    assert not list(tmp_path.glob("copy*"))


def test_a_source_with_a_wrong_checksum_is_not_confirmed(source, copies, tmp_path):
    change(tmp_path / "source.data-00000-of-00001")
    found = copies()
    with pytest.raises(WeightsError) as caught:
        check_copied(str(tmp_path / "copy"), sources(source), found)
    assert str(caught.value).startswith(f"{tmp_path}/source")


def test_a_copy_that_fails_ends_the_read_back(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    monkeypatch.setattr(data_file, "_copy_by_buffer", lambda *_: 0)
    with pytest.raises(WeightsError, match="became shorter"), BundleWriter(tmp_path / "copy", reads_back=True) as made:
        made.copy("a", source, "a")
    assert "readback" not in [thread.name for thread in threading.enumerate()]
    assert not data(tmp_path).exists()


def test_the_digest_is_that_of_the_whole_file(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 64)
    with BundleWriter(tmp_path / "copy", reads_back=True, digests=True) as made:
        for name in VALUES:
            made.copy(name, source, name)
        made.add("words", np.array([b"x" * 1000, b""], object))
    found = made.readback
    assert found.path == str(data(tmp_path))
    assert found.digest == hashlib.sha256(data(tmp_path).read_bytes()).hexdigest()


def test_a_digest_is_computed_where_it_is_asked_for(copies):
    assert copies().digest is None


def test_what_does_not_have_its_checksum_has_no_digest(source, tmp_path):
    change(tmp_path / "source.data-00000-of-00001")
    with BundleWriter(tmp_path / "copy", reads_back=True, digests=True) as made:
        made.copy("a", source, "a")
    assert made.readback.digest is None


def test_a_file_is_unchanged_until_its_bytes_or_its_inode_are_others(copies, tmp_path):
    found, path = copies(), data(tmp_path)
    assert found.is_unchanged()
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not found.is_unchanged()


def test_another_file_with_the_same_bytes_is_not_unchanged(copies, tmp_path):
    found, path = copies(), data(tmp_path)
    path.with_name("other").write_bytes(path.read_bytes())
    os.replace(path.with_name("other"), path)
    assert not found.is_unchanged()


def test_a_large_copy_is_written_back_before_it_is_synced(source, tmp_path, monkeypatch):
    calls, fsync = [], os.fsync
    monkeypatch.setattr(data_file, "_WORTH", 64)
    monkeypatch.setattr(data_file, "_STEP", 100)
    monkeypatch.setattr(
        data_file, "_sync_file_range", lambda: lambda *given: calls.append([getattr(n, "value", n) for n in given[1:]])
    )
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or fsync(file))
    with BundleWriter(tmp_path / "copy") as made:
        made.copy("a", source, "a")
        made._data.flush()
        made._data._writing_back.submit(int).result()
    synced = calls.index("fsync")
    assert calls[:synced] == [[at, 100, 2] for at in range(0, 4000, 100)]
    assert made._data._writing_back is None


def test_without_a_way_to_write_back_the_copy_is_synced_all_the_same(source, tmp_path, monkeypatch):
    monkeypatch.setattr(data_file, "_WORTH", 1)
    monkeypatch.setattr(data_file, "_sync_file_range", lambda: None)
    with BundleWriter(tmp_path / "copy") as made:
        made.copy("a", source, "a")
    assert check_copied(str(tmp_path / "copy"), {"a": (source, "a")}) == Copied(1, 4000)
