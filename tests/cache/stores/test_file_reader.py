from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cache.stores.file_reader import FileChanged, FileReader, SourceFile
from cache.stores.port import UnreadableFile
from tests.contracts.store_contract import opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"0123456789")
    return path


def test_any_part_is_read_also_of_what_was_replaced_meanwhile(path: Path) -> None:
    with FileReader() as file:
        assert file.open(path) == 10
        beside = path.with_name("beside")
        beside.write_bytes(b"abcdefghij")
        beside.replace(path)
        assert file.read(0, 10) == b"0123456789"
        assert file.read(8, 2) == b"89"
        assert file.read(3, 0) == b""


@pytest.mark.parametrize("content", [b"", b"012345678", b"0123456789+"])
def test_what_was_written_in_place_is_no_longer_read(path: Path, content: bytes) -> None:
    with FileReader() as file:
        file.open(path)
        path.write_bytes(content)
        with pytest.raises(FileChanged, match="changed while it was read"):
            file.read(0, 5)


def test_of_equal_length_it_is_known_by_its_time(path: Path) -> None:
    with FileReader() as file:
        file.open(path)
        path.write_bytes(b"abcdefghij")
        os.utime(path, ns=(1, 1))
        with pytest.raises(FileChanged):
            file.read(0, 10)


def test_what_is_no_file_is_refused_and_closed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = opened()
    for wrong in (tmp_path, pipe):
        with FileReader() as file, pytest.raises(IsADirectoryError):
            file.open(wrong)
        with SourceFile(wrong) as source, pytest.raises(UnreadableFile, match="is not a file"):
            source.look()
    assert opened() == before


@pytest.mark.parametrize("call", ["open", "pread"])
def test_closing_waits_for_no_thread_that_hangs_and_that_thread_closes(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    really = getattr(os, call)

    def hang(*args: int) -> object:
        if threading.current_thread() is thread:
            hanging.set()
            go_on.wait()
        return really(*args)

    before = opened()
    file = FileReader()

    def use() -> None:
        file.open(path)
        file.read(0, 10)

    thread = threading.Thread(target=use)
    monkeypatch.setattr(os, call, hang)
    if call == "open":
        monkeypatch.setattr(threading, "excepthook", lambda _: None)  # it finds it closed
    thread.start()
    hanging.wait()
    file.close()
    go_on.set()
    thread.join()
    assert opened() == before


def test_what_is_closed_is_not_read(path: Path) -> None:
    file = FileReader()
    file.open(path)
    file.close()
    file.close()
    with pytest.raises(OSError, match="was closed"):
        file.read(0, 1)
