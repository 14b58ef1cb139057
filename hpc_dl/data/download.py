"""Download one archive, resumable and checked, and unpack the files that we know. Standard library only."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from hpc_dl.errors import UserError

_CHUNK = 1 << 18
_TIMEOUT = 30  # seconds without a byte


def md5(path: Path) -> str:
    """Return the MD5 sum of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(url: str, checksum: str, target: Path) -> None:
    """Fetch `url` into `target`, unless it is there. An interrupted download goes on where it ended.

    The bytes are collected in ``target.part``, which is renamed to `target` when its MD5 sum is right.

    Raises:
        UserError: no network (the message says which file to put where), or the checksum is wrong.
    """
    if target.exists():
        if (found := md5(target)) != checksum:
            raise UserError(f"{target}: MD5 sum is {found}, it must be {checksum}: remove this file and fetch again")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _receive(url, part)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"can't download {url}: {reason}; on a machine with network access fetch it by hand "
            f"and put it here: {target} (or run this command again: it goes on where it ended)"
        ) from error
    if (found := md5(part)) != checksum:
        part.unlink()
        raise UserError(f"{url}: MD5 sum is {found}, it must be {checksum}: removed; try again")
    part.rename(target)


def _receive(url: str, part: Path) -> None:
    """Append the missing bytes to `part`, or start anew if the server can't send a part."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310 (the URL is ours)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing: the checksum decides
            return
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        rest = response.headers.get("Content-Length")
        total = have + int(rest) if rest else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, have, total, part.name.removesuffix(".part"))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"connection ended after {part.stat().st_size} of {total} bytes")


def _copy(source: IO[bytes], target: IO[bytes], have: int, total: int | None, name: str) -> None:
    """Copy all bytes, and say on stderr once a second how many there are."""
    next_line = time.monotonic() + 1
    while chunk := source.read(_CHUNK):
        target.write(chunk)
        have += len(chunk)
        if time.monotonic() >= next_line:
            share = f" of {total / 1e6:.1f}" if total else ""
            print(f"{name}: {have / 1e6:.1f}{share} MB", file=sys.stderr, flush=True)
            next_line = time.monotonic() + 1


def unpack(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    """Take the files called `names` out of a tar archive into `folder`.

    Only regular files of exactly these names are read, whatever their folders in the archive, so that no member
    can write anywhere else.

    Raises:
        UserError: the file is not a tar archive, is cut short, or lacks one of the files.
    """
    missing = set(names)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name in missing and member.isfile() and (content := tar.extractfile(member)):
                    with content, (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
                    missing.remove(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: can't be unpacked: {error}") from error
    if missing:
        raise UserError(f"{archive}: has no file {', '.join(sorted(missing))}")
