from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

import cache.stores
from cache.model.keys import parse_key
from cache.stores.credentials import S3Credentials, credentials_from
from cache.stores.folder import FolderStore
from cache.stores.s3.store import S3Store
from cache.stores.urls import BadStoreAddress, StoreOptions, open_store

MINIO = "http://minio.local:9000"
R2 = "https://0123abcd.r2.cloudflarestorage.com"


def root_of(url: str, base: Path | None = None) -> Path:
    store = open_store(url, StoreOptions(base=base or Path()))
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
        ("s3://user:secret@bucket/x", "expected s3://bucket/prefix .* without user or password"),
        ("s3:bucket", "expected s3://bucket/prefix"),
        ("s3://", "expected s3://bucket/prefix"),
        ("s3://bucket/x?key=secret", "no \\? or # in the prefix"),
        ("s3://bucket/../secret", "the prefix is no key: '..' is not allowed"),
        ("https://user:secret@host/x", "stores of kind https: are not supported"),
        ("folder:sets", "stores of kind folder: are not supported"),
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


# Others.

TOY = """
from cache.stores.memory import MemoryStore
from cache.stores.urls import BadStoreAddress


def open_address(address, options):
    if address != "toy:box":
        raise BadStoreAddress("expected toy:box")
    return MemoryStore({"manifest.json": b"{}"})
"""


async def test_a_kind_of_store_is_added_by_its_module_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.stores, "__path__", [*cache.stores.__path__, str(tmp_path)])
    with pytest.raises(BadStoreAddress, match="stores of kind toy: are not supported"):
        open_store("toy:box")
    (tmp_path / "toy.py").write_text(TOY)
    importlib.invalidate_caches()
    try:
        async with open_store("toy:box") as store:
            assert await store.get(parse_key("manifest.json")) == b"{}"
        with pytest.raises(BadStoreAddress, match="expected toy:box"):
            open_store("TOY:chest")
    finally:
        sys.modules.pop("cache.stores.toy", None)


# Buckets.


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("AWS_", "R2_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/shows/one/", "s3://my.bucket-1/shows/one"),
        ("s3://bucket/a b/é", "s3://bucket/a b/é"),
    ],
)
@pytest.mark.usefixtures("environ")
def test_a_bucket_is_opened_with_its_prefix(url: str, address: str) -> None:
    store = open_store(url, StoreOptions(base=Path("/show"), endpoint_url=MINIO))
    assert isinstance(store, S3Store)
    assert store.url == address


@pytest.mark.parametrize(
    "endpoint_url",
    ["minio:9000", "ftp://minio", "https://", "https://me:secret@minio", "https://minio?k=secret",
     "http://minio:x"],
)  # fmt: skip
def test_an_endpoint_is_a_plain_address(endpoint_url: str) -> None:
    with pytest.raises(BadStoreAddress, match="endpoint_url: expected https://host") as caught:
        open_store("s3://bucket", StoreOptions(endpoint_url=endpoint_url))
    assert "secret" not in str(caught.value)


def test_the_environment_may_name_the_endpoint(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("AWS_ENDPOINT_URL", "no address")
    open_store("s3://bucket", StoreOptions(endpoint_url=MINIO))
    with pytest.raises(BadStoreAddress, match="endpoint_url"):
        open_store("s3://bucket")
    environ.setenv("AWS_ENDPOINT_URL_S3", MINIO)
    open_store("s3://bucket")


def test_credentials_in_the_environment_that_make_no_pair_are_told(
    environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(BadStoreAddress, match="expected AWS_ACCESS_KEY_ID with AWS_SECRET"):
        open_store("s3://bucket")
    environ.setenv("AWS_ACCESS_KEY_ID_FILE", str(tmp_path / "missing"))
    with pytest.raises(BadStoreAddress, match=r"AWS_ACCESS_KEY_ID_FILE: .*missing: No such file"):
        open_store("s3://bucket")
    (tmp_path / "missing").write_text("id\n")
    open_store("s3://bucket")


AWS_KEYS = {"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "aws-secret"}
R2_KEYS = {"R2_ACCESS_KEY_ID": "r2", "R2_SECRET_ACCESS_KEY": "r2-secret"}


@pytest.mark.parametrize(
    ("environ", "endpoint_url", "expected"),
    [
        ({}, None, None),
        ({}, R2, None),
        (AWS_KEYS, None, S3Credentials("aws", "aws-secret")),
        (AWS_KEYS | {"AWS_SESSION_TOKEN": "t"}, MINIO, S3Credentials("aws", "aws-secret", "t")),
        (AWS_KEYS | R2_KEYS, R2, S3Credentials("r2", "r2-secret")),
        (AWS_KEYS | R2_KEYS, MINIO, S3Credentials("aws", "aws-secret")),
        (AWS_KEYS, R2, S3Credentials("aws", "aws-secret")),
        (R2_KEYS, MINIO, None),
        (R2_KEYS, "https://r2.cloudflarestorage.com.evil.example", None),
        ({"AWS_ACCESS_KEY_ID": " aws\n", "AWS_SECRET_ACCESS_KEY": "x "}, None,
         S3Credentials("aws", "x")),
    ],
)  # fmt: skip
def test_credentials_are_those_of_the_endpoint(
    environ: dict[str, str], endpoint_url: str | None, expected: S3Credentials | None
) -> None:
    assert credentials_from(environ, endpoint_url=endpoint_url) == expected


def test_credentials_never_show() -> None:
    credentials = S3Credentials("id", "secret", "token")
    assert repr(credentials) == str(credentials) == "S3Credentials()"
