"""Machine code on disk: what is written, what is read again, and what is not trusted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.scripts import at_once, python

pytest.importorskip("llvmlite", "0.45", reason="llvmlite is not installed: pip install 'lossreg[jit]'")
from lossreg.ops.llvm import cache as code_cache

COUNTED = """
import llvmlite.binding as llvm
parse, compiled = llvm.parse_assembly, []
llvm.parse_assembly = lambda text, *rest: ("define" in text and compiled.append(1), parse(text, *rest))[1]
print(right(), bool(compiled))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> Path:
    """A folder to which one process has written its machine code."""
    folder: Path = tmp_path_factory.mktemp("cache") / "new" / "folder"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(folder)) == "True True"
    return folder


@pytest.fixture
def cache(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "cache")


def test_a_second_process_compiles_nothing(written: Path) -> None:
    before = sorted(written.iterdir())
    assert before
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(written)) == "True False"
    assert sorted(written.iterdir()) == before


def test_processes_that_write_the_same_at_once(tmp_path: Path) -> None:
    for found in at_once(*[lambda: python(COUNTED, LOSSREG_CACHE_DIR=str(tmp_path))] * 4):
        assert found.startswith("True")
    assert {path.suffix for path in tmp_path.iterdir()} == {".o"}
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(tmp_path)) == "True False"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda code: b"",
    "cut in half": lambda code: code[: len(code) // 2],
    "without its end": lambda code: code[:-16],
    "zeros": lambda code: bytes(len(code)),
    "noise": lambda code: np.random.default_rng(0).bytes(len(code)),
    "one bit": lambda code: code[:200] + bytes([code[200] ^ 1]) + code[201:],
    "text": lambda code: b"no machine code\n",
    "too long": lambda code: code + code,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_compiled_again(damage: str, cache: Path) -> None:
    for path in cache.iterdir():
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True False"


def test_an_unreadable_file_is_compiled_again(cache: Path) -> None:
    for path in list(cache.iterdir()):
        path.unlink()
        path.mkdir()
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"


def test_the_folder_of_the_users_cache(tmp_path: Path) -> None:
    places = dict(LOSSREG_CACHE_DIR=None, LOCALAPPDATA=None, XDG_CACHE_HOME=str(tmp_path))
    assert python(COUNTED, **places) == "True True"
    assert [path.name for path in tmp_path.iterdir()] == ["lossreg"]
    assert python(COUNTED, **places) == "True False"
    if os.name == "posix":
        assert (tmp_path / "lossreg").stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in (tmp_path / "lossreg").iterdir()} == {".o"}  # no temporary file is left


def test_without_a_folder_everything_works(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        assert python(COUNTED, LOSSREG_CACHE_DIR=folder) == "True True"


def test_a_folder_that_is_read_only(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o500)
    cache.chmod(0o500)
    if os.access(cache, os.W_OK):
        pytest.skip("this user may write everywhere")
    for folder, compiles in ((cache, False), (tmp_path / "empty", True)):
        before = list(folder.iterdir())
        assert python(COUNTED, LOSSREG_CACHE_DIR=str(folder)) == f"True {compiles}"
        assert list(folder.iterdir()) == before


HOMELESS = """
import pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
"""


@pytest.mark.skipif(os.name != "posix", reason="homes of POSIX")
@pytest.mark.parametrize("folder", [None, "given"])
def test_a_user_without_a_home(folder: Any, tmp_path: Path) -> None:
    """As in a container that runs under a number."""
    given = None if folder is None else str(tmp_path / folder)
    places = dict(LOSSREG_CACHE_DIR=given, HOME=None, XDG_CACHE_HOME=None, LOCALAPPDATA=None)
    assert python(HOMELESS + COUNTED, **places) == "True True"


# What may be read from a disk, since it is run

CODE = b"machine code"


def kept(folder: Path, **options: Any) -> code_cache.CodeCache:
    """A cache that has written a piece of code to a new folder."""
    written = code_cache.CodeCache(folder, **options)
    written.write("code", CODE)
    assert written.read("code") == CODE
    return written


def refused(folder: Path, why: str) -> None:
    """Raise unless code of a folder is not used, which one warning says."""
    refuses = code_cache.CodeCache(folder)
    assert refuses.read("code") is None
    with pytest.warns(RuntimeWarning, match=rf"compiled code is not kept on disk: .*{why}.*LOSSREG_CACHE_DIR"):
        refuses.warn()
    refuses.warn()
    refuses.write("more", CODE)
    assert not os.path.exists(folder / "more.o")  # of a name that is too long, too


owners = pytest.mark.skipif(not code_cache.HAS_OWNERS, reason="files have no owners on this system")


@owners
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_not_used(mode: int, tmp_path: Path) -> None:
    kept(tmp_path)
    tmp_path.chmod(mode)
    refused(tmp_path, "others may write to the folder")


@owners
@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_may_write_to_is_not_used(mode: int, tmp_path: Path) -> None:
    kept(tmp_path)
    (tmp_path / "code.o").chmod(mode)
    refused(tmp_path, "others may write to a file")


@owners
@pytest.mark.parametrize("what", ["", "code.o"], ids=["folder", "file"])
def test_what_belongs_to_another_user_is_not_used(what: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    folder = tmp_path / "cache"
    kept(folder)
    os.chown(folder / what, 12_345, -1)
    refused(folder, "belongs to user 12345")


@owners
def test_code_that_somebody_planted_is_not_run(cache: Path) -> None:
    cache.chmod(0o777)
    before = sorted(cache.iterdir())
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert sorted(cache.iterdir()) == before


def test_code_for_another_machine_is_not_run(cache: Path) -> None:
    """As in a home that machines of several kinds share."""
    other = "import llvmlite.binding\nllvmlite.binding.get_default_triple = lambda: 'riscv64-unknown-linux-gnu'"
    assert python(other + COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True True"
    assert python(COUNTED, LOSSREG_CACHE_DIR=str(cache)) == "True False"


@owners
def test_links(tmp_path: Path) -> None:
    """What a link leads to is looked at; a link in place of a file is not followed."""
    kept(tmp_path / "folder")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert code_cache.CodeCache(tmp_path / "link").read("code") == CODE
    (tmp_path / "folder" / "other.o").symlink_to(tmp_path / "folder" / "code.o")
    assert code_cache.CodeCache(tmp_path / "folder").read("other") is None


@owners
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "code.o", 0o600)
    assert code_cache.CodeCache(tmp_path).read("code") is None
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "Not a directory")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 5000), "name too long")


def test_a_full_disk_costs_a_warning(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_cache.os, "replace", full)
    on_full_disk = code_cache.CodeCache(tmp_path)
    on_full_disk.write("code", CODE)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        on_full_disk.warn()
    assert not list(tmp_path.iterdir()), "what was begun is removed"


def test_the_warning_comes_once_and_with_the_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    right(), lossreg.MeanSquaredError()(x, t)
print([str(w.message).partition(":")[0] for w in seen])
"""
    assert python(code, LOSSREG_CACHE_DIR=str(tmp_path / "file")) == "['lossreg']"


def test_the_oldest_files_make_room(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(code_cache, "MAX_FILES", 6)
    cache = code_cache.CodeCache(tmp_path)
    for i in range(9):
        (tmp_path / f"of the user {i}.o").touch()
    for i in range(7):
        cache.write(f"{i:040x}", CODE)
        os.utime(tmp_path / f"{i:040x}.o", (i, i))
    written = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("of the user"))
    assert written == [f"{i:040x}.o" for i in (3, 4, 5, 6)]
    assert len(list(tmp_path.iterdir())) == 9 + 4


def test_home_is_expanded(tmp_path: Path) -> None:
    assert python(COUNTED, HOME=str(tmp_path), USERPROFILE=str(tmp_path), LOSSREG_CACHE_DIR="~/mine") == "True True"
    assert list((tmp_path / "mine").iterdir())


def test_code_that_nobody_needs_is_given_back() -> None:
    """A formula that branches on an int has machine code for each value; what is not used for long makes room."""
    code = """
import gc
ops = lossreg.get_ops(x)
def formula(xp, x, k): return x * float(k), x
def call(k): return ops.run(formula, [x[:1]], (k,), None, 1.0, rows=False, values=True, total=False, out=None)[0]
from lossreg.ops.llvm import compiler as engine
from lossreg.ops.llvm import ops as llvm_ops
for k in range(20): call(k)
one = len(engine._in_use)
llvm_ops._kernel.cache_clear(); gc.collect()
call(20)
print(one >= 20, len(engine._in_use) <= 1 + engine._recent.maxlen)
"""
    assert python(code, LOSSREG_CACHE_DIR="") == "True True"
