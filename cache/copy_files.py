"""The files of copies: one copy each, its content and behind it the proof of it.

Content and proof come into being in one rename. Whatever happens to a file later (bits that
flip, an end that is missing, another file in its place) is seen when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from cache.keys import set_prefix

PROOF_BYTES: Final = 56
"""How much larger a copy's file is than its content."""

LISTING_NAME: Final = ".listing"

_MAGIC: Final = b"UNDRSTD1"
_PROOF: Final = struct.Struct(">32sQ8s8s")
_ORIGIN: Final = re.compile(r"[a-z0-9-]+-[0-9a-f]{8}")


class Copy(NamedTuple):
    """A content that was proven, and its SHA-256 in hexadecimal."""

    data: bytes
    sha256: str


def origin_folder(origin: str) -> str:
    """The folder's name for copies of one origin: readable, and no other's."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", origin).strip("-").lower()[:60].rstrip("-")
    return f"{slug or 'origin'}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def listing_name(action_id: str, set_id: int) -> str:
    """The name under which a set's listing is kept; it is hidden, so no key is named so.

    Raises:
        BadKey: `action_id` is no action id, or `set_id` no set number.
    """
    return f"{set_prefix(action_id, set_id)}{LISTING_NAME}"


def read_copy(root: str, path: str) -> Copy | None:
    """A copy if it is sound.

    Args:
        root: the folder of all copies.
        path: the copy's path in it.

    Raises:
        OSError: it cannot be opened or read.
    """
    # Non-blocking and without following links: what stands in its place may be anything.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    descriptor = os.open(f"{root}/{path}", flags)
    try:
        info = os.fstat(descriptor)
        if stat.S_ISDIR(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "is a folder", path)
        if not stat.S_ISREG(info.st_mode) or info.st_size < PROOF_BYTES:
            return None
        length = info.st_size - PROOF_BYTES
        data = _read_exactly(descriptor, length)
        proof = _read_exactly(descriptor, PROOF_BYTES)
    finally:
        os.close(descriptor)
    digest = hashlib.sha256(data)
    if len(data) != length or proof != _proof(path, length, digest.digest()):
        return None
    return Copy(data, digest.hexdigest())


def write_copy(root: str, unfinished: str, path: str, copy: Copy, used_ns: int) -> None:
    """Write a copy, whatever was there.

    Args:
        root: the folder of all copies.
        unfinished: a path in it for the file while it is being written.
        path: the copy's path in it.
        copy: what to write.
        used_ns: when it was last used: time of day in nanoseconds.

    Raises:
        OSError: it could not be written; then nothing is left of it.
    """
    place, beside = f"{root}/{path}", f"{root}/{unfinished}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            proof = _proof(path, len(copy.data), bytes.fromhex(copy.sha256))
            _write_all(descriptor, copy.data, proof)
            os.utime(descriptor, ns=(used_ns, used_ns))
        finally:
            os.close(descriptor)
        try:
            os.rename(beside, place)  # noqa: PTH104 - a Path costs more than the call
        except FileNotFoundError:
            os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
            os.rename(beside, place)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)  # noqa: PTH108
        raise


def files_in(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every copy of every origin: its path within the root, and its file's facts."""
    with os.scandir(root) as scan:
        origins = [
            item.name
            for item in scan
            if _ORIGIN.fullmatch(item.name) and item.is_dir(follow_symlinks=False)
        ]
    folders = origins
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(f"{root}/{folder}") as scan:
                for item in scan:
                    hidden = item.name.startswith(".") and item.name != LISTING_NAME
                    if hidden:
                        continue
                    path = f"{folder}/{item.name}"
                    if item.is_dir(follow_symlinks=False):
                        folders.append(path)
                        continue
                    with suppress(FileNotFoundError):
                        yield path, item.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # evicted by another process meanwhile


def _proof(path: str, length: int, sha256: bytes) -> bytes:
    """What stands behind a content that belongs in this place, and nowhere else."""
    place = hashlib.sha256(path.encode()).digest()[:8]
    return _PROOF.pack(sha256, length, place, _MAGIC)


def _read_exactly(descriptor: int, length: int) -> bytes:
    """As many bytes, or fewer where the file ends."""
    data = os.read(descriptor, length)
    if len(data) == length or not data:
        return data
    parts = [data]
    while (length := length - len(data)) and (data := os.read(descriptor, length)):
        parts.append(data)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes, proof: bytes) -> None:
    written = os.writev(descriptor, [data, proof])
    if written == len(data) + len(proof):
        return
    rest = memoryview(data + proof)[written:]
    while rest:
        rest = rest[os.write(descriptor, rest) :]
