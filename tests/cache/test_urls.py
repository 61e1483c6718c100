from __future__ import annotations

from pathlib import Path

import pytest

from cache.folder import FolderStore
from cache.urls import BadStoreAddress, open_store


def root_of(url: str, base: Path | None = None) -> Path:
    store = open_store(url, base=base)
    assert isinstance(store, FolderStore)
    return store.root


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:pictures", "/show/pictures"),
        ("FILE:./pictures", "/show/pictures"),
        ("file:a%20b/c", "/show/a b/c"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("file://localhost/srv", "/srv"),
        ("file:/srv", "/srv"),
        ("pictures", "/show/pictures"),
        (".", "/show"),
        ("/srv/a%20b", "/srv/a%20b"),
    ],
)
def test_folders_are_opened_by_url_or_path(url: str, path: str) -> None:
    assert root_of(url, Path("/show")) == Path(path)


def test_relative_ones_are_taken_from_here_and_home_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/artist")
    assert root_of("file:x") == tmp_path / "x"
    assert root_of("~/x") == Path("/home/artist/x")


def test_an_address_leads_back_to_itself(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a b"))
    assert root_of(store.url) == tmp_path / "a b"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://user:secret@bucket/x", "stores of kind s3: are not supported, use file:relative"),
        ("https://user:secret@host/x", "stores of kind https: are not supported"),
        ("file://server/share", "found host 'server'"),
        ("file://", "names no host"),
        ("", "found nothing"),
        ("file:", "found nothing"),
        ("a\0b", "NUL"),
    ],
)
def test_other_addresses_are_refused_without_their_secrets(url: str, message: str) -> None:
    with pytest.raises(BadStoreAddress, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
