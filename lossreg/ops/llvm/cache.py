"""Compiled code on disk: read from and written to a folder that nobody but its owner can write to.

What is read here is executed. A digest finds damage, and no more: whoever can write a file can write its digest. So a
folder or a file that belongs to somebody else, or that others may write to, is not used. Where files have owners, the
folder is opened and looked at, and files are named relative to what was opened: nobody can put another folder in its
place in between.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from ...environment import ENVIRONMENT

__all__ = ["CodeCache", "code_cache"]

MAX_FILES = 4096
"""Files that are kept, mostly of 3 to 15 KB; beyond it the oldest half is removed."""

_OWN_NAME = re.compile(r"[0-9a-f]{40}\.o(\.[0-9a-f]{32})?")
"""Names of files that lossreg wrote, or began to write."""

DIGEST_BYTES = 32

HAS_OWNERS = os.open in os.supports_dir_fd and hasattr(os, "geteuid")
"""Whether files have owners, and can be opened relative to an open folder: POSIX."""


class CodeCache:
    """Named pieces of machine code in a folder, or nowhere. What goes wrong is no error, and one warning says it."""

    def __init__(self, folder: Path | None, problem: str = "") -> None:
        self.folder = folder
        self.problem = problem
        """Why nothing is kept, until `warn` has said it."""

    def read(self, name: str) -> bytes | None:
        """What `write` wrote, or None where there is nothing, or nothing that may be used."""
        if self.folder is None:
            return None
        try:
            with _opened(self.folder) as folder:
                content = _read(self.folder, f"{name}.o", folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._stop(error)
            return None
        # Damaged, for example by a disk that was full: as if it were not there.
        digest, code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(code).digest() != digest:
            return None
        return code

    def write(self, name: str, code: bytes) -> None:
        """Keep a piece of code, all or nothing, also when other processes write the same."""
        if self.folder is None:
            return
        content = hashlib.sha256(code).digest() + code
        try:
            try:
                self._write(name, content)
            # The folder was removed at this moment.
            except FileNotFoundError:
                self._write(name, content)
        # It costs time at the next start, and nothing else.
        except OSError as error:
            self._stop(error)

    def _write(self, name: str, content: bytes) -> None:
        folder_path = self.folder
        assert folder_path is not None
        folder_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(folder_path) as folder:
            _write(folder_path, f"{name}.o", content, folder)
            _remove_oldest(folder_path, folder)

    def warn(self) -> None:
        """Say once why code is not kept."""
        problem, self.problem = self.problem, ""
        if not problem:
            return
        advice = "set LOSSREG_CACHE_DIR to a folder of your own, or to nothing to keep none"
        message = f"lossreg: compiled code is not kept on disk: {problem} ({advice})"
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _stop(self, error: OSError) -> None:
        """Use the folder no more."""
        self.problem = f"{self.folder}: {error.strerror or error}"
        self.folder = None


@functools.cache
def code_cache() -> CodeCache:
    """The cache of this process: in $LOSSREG_CACHE_DIR, or in the user's cache folder."""
    asked = ENVIRONMENT.cache_folder
    if asked == "":
        return CodeCache(None)
    try:
        if asked is not None:
            return CodeCache(Path(asked).expanduser().absolute())
        base = os.environ.get("LOCALAPPDATA") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return CodeCache(Path(base).absolute() / "lossreg")
    # A user without a home.
    except (OSError, RuntimeError, KeyError) as error:
        return CodeCache(None, f"there is no home folder ({error})")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A folder, opened once it is known to be the user's own; None where files have no owners."""
    if not HAS_OWNERS:
        yield None
        return
    # What was opened is looked at, and not what the path leads to: that may be another folder a moment later.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_own(os.fstat(folder), "the folder")
        yield folder
    finally:
        os.close(folder)


def _check_own(status: os.stat_result, what: str) -> None:
    """Raise unless a file or folder is the user's own, and nobody else may write to it."""
    if status.st_uid != os.geteuid():
        expected = f"not to you (user {os.geteuid()}); its code would be run with your rights"
        raise PermissionError(1, f"{what} belongs to user {status.st_uid}, {expected}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(1, f"others may write to {what}, and their code would be run with your rights")


def _read(path: Path, name: str, folder: int | None) -> bytes:
    """The content of a file of the folder; links are not followed, and pipes not waited for."""
    if folder is None:
        return (path / name).read_bytes()
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(file, "rb") as content:
        status = os.fstat(file)
        # FileNotFoundError says that there is no code; the folder itself is still used.
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(f"{name} is no file")
        _check_own(status, "a file")
        return content.read()


def _write(path: Path, name: str, content: bytes, folder: int | None) -> None:
    """Write a file under another name first: it has its own once it is whole."""
    unfinished = f"{name}.{uuid.uuid4().hex}"
    try:
        if folder is None:
            (path / unfinished).write_bytes(content)
            os.replace(path / unfinished, path / name)
            return
        # O_EXCL follows no link that somebody has put there.
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with open(file, "wb") as target:
            target.write(content)
        # Other processes see the former file or the whole new one, and nothing in between.
        os.replace(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            _remove(path, unfinished, folder)
        raise


def _remove(path: Path, name: str, folder: int | None) -> None:
    """Remove a file of the folder."""
    if folder is None:
        os.unlink(path / name)
    else:
        os.unlink(name, dir_fd=folder)


def _remove_oldest(path: Path, folder: int | None) -> None:
    """Remove the older half of lossreg's files where there are too many; other files are never touched."""
    with os.scandir(path if folder is None else folder) as entries:
        files = [entry for entry in entries if _is_own(entry)]
        if len(files) <= MAX_FILES:
            return
        # Half of them at once: so it happens once in thousands of calls.
        files.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime)
        for entry in files[: len(files) // 2]:
            # Another process may have been faster.
            with contextlib.suppress(OSError):
                _remove(path, entry.name, folder)


def _is_own(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of the folder is a file of lossreg's."""
    return bool(_OWN_NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
