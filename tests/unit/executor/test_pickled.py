"""Functions and results as files."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.executor.pickled import Call, describe, dumps, load, load_outcome, name_of, own_path


class _Callable:
    def __call__(self) -> None: ...


def _save(path: Path, call: Call) -> Path:
    path.write_bytes(dumps(tuple(call), "it"))
    return path


def test_a_closure_with_its_arguments_comes_back(tmp_path: Path) -> None:
    factor = 3
    call = Call(lambda a, b: factor * (a + b), (4,), {"b": 5})
    back = load(_save(tmp_path / "0.pkl", call), describe(call))
    assert back.function(*back.args, **back.kwargs) == 27


def test_functions_have_names_for_people() -> None:
    assert name_of(functools.partial(name_of, 1)) == "name_of"
    assert name_of(_Callable()) == "_Callable"
    assert name_of(lambda: 1) == "<lambda>"


def test_what_can_not_be_pickled_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"^the function 'f' can't be pickled: TypeError: cannot pickle '_thread.lock'"):
        dumps((lambda: lock, (), {}), "the function 'f'")


def test_another_python_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    description = {"name": "add", "python": "3.2.1", "path": []}
    with pytest.raises(UserError, match=r"^the function 'add' was submitted by Python 3\.2\.1, and .* is Python 3"):
        load(tmp_path / "missing.pkl", description)


def test_a_missing_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    call = Call(only_here.work)
    path = _save(tmp_path / "0.pkl", call)
    assert str(tmp_path) in describe(call)["path"]
    monkeypatch.delitem(sys.modules, "only_here")
    (tmp_path / "only_here.py").unlink()
    with pytest.raises(UserError, match=r"^the function 'work' needs the module 'only_here', which .* does not have"):
        load(path, describe(call))


@pytest.mark.parametrize("data", [b"", b"\x80", b"not a pickle at all"])
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "worker-0.pkl").write_bytes(data)
    with pytest.raises(UserError, match=r"^the result in .*worker-0\.pkl can't be unpickled: "):
        load_outcome(tmp_path / "worker-0.pkl")


def test_the_folders_of_python_itself_are_not_passed_on() -> None:
    assert not [folder for folder in own_path() if folder.startswith((sys.prefix, sys.base_prefix))]
    assert all(Path(folder).is_absolute() for folder in own_path())
