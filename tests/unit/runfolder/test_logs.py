"""Logs: whole, their last lines, and what is appended."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from hpc_dl.runfolder import logs
from hpc_dl.runfolder.logs import Logs, last_lines, screen_lines

_TEXTS = ("", "one", "one\n", "\n", "\n\n", "one\ntwo\nthree\n", "one\n\nthree", "a\r\nb\nc\n\n")


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.log"


def test_each_look_gives_what_was_appended(log: Path) -> None:
    logs, sources = Logs(), {"worker:0": log}
    assert list(logs.appended(sources, final=False)) == []
    write(log, "one\ntw")
    assert list(logs.appended(sources, final=False)) == ["worker:0  one"]
    write(log, "o\n\nthr")
    assert list(logs.appended(sources, final=False)) == ["worker:0  two", "worker:0  "]
    assert list(logs.appended(sources, final=True)) == ["worker:0  thr"]


def test_a_log_that_is_begun_anew_is_read_from_its_start(log: Path) -> None:
    logs, sources = Logs(), {"job": log}
    write(log, "a long first line\n")
    list(logs.appended(sources, final=False))
    log.write_text("new\n")
    assert list(logs.appended(sources, final=False)) == ["job       new"]


def test_a_character_that_is_cut_in_two_is_whole_later(log: Path) -> None:
    logs, sources = Logs(), {"job": log}
    log.write_bytes("é".encode()[:1])
    assert list(logs.appended(sources, final=False)) == []
    log.write_bytes("é\n".encode())
    assert list(logs.appended(sources, final=False)) == ["job       é"]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 65_536])
@pytest.mark.parametrize("text", _TEXTS)
def test_the_last_lines_are_those_of_tail(log: Path, text: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BLOCK", block)
    log.write_bytes(text.encode())
    lines = text.split("\n")[: None if text and not text.endswith("\n") else -1]
    for count in range(6):
        expected = [f"x{'':<9}{line}" for line in (lines[-count:] if count else [])]
        assert list(Logs(count).appended({"x": log}, final=True)) == expected


def test_after_the_last_lines_comes_what_is_appended(log: Path, tmp_path: Path) -> None:
    write(log, "one\ntwo\nthree\n")
    logs, sources = Logs(1), {"worker:0": log, "worker:1": tmp_path / "worker-1.log"}
    assert list(logs.appended(sources, final=False)) == ["worker:0  three"]
    write(log, "four\n")
    write(sources["worker:1"], "a\nb\n")  # a process that starts later is shown as a whole
    assert list(logs.appended(sources, final=False)) == ["worker:0  four", "worker:1  a", "worker:1  b"]


def test_a_large_log_is_not_held_in_memory(log: Path) -> None:
    log.write_text("x" * 99 + "\n")
    log.write_text(log.read_text() * 50_000)  # 5 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in Logs().appended({"job": log}, final=True)) == 50_000
        assert last_lines(log, 3) == 3 * ["x" * 99]
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_a_line_without_an_end_is_cut(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LONGEST", 4)
    write(log, "abcdefgh\nij")
    assert list(Logs().appended({"x": log}, final=True)) == [f"x{'':<9}{part}" for part in ("abcd", "efgh", "", "ij")]


def test_a_log_that_is_not_there_has_no_lines(log: Path) -> None:
    assert last_lines(log, 8) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("one\n\n  two  \n \n", ["one", "two"]),
        ("1\n2\n3\n4", ["2", "3", "4"]),
        ("Epoch 1/3\n\r 1/70 [>...]\b\b\b\b\r 2/70 [=>..]", ["Epoch 1/3", "2/70 [=>..]"]),
        ("10%\r20%\r\n", ["20%"]),
        ("\x1b[1m70/70\x1b[0m \x1b[32m---\x1b[0m\x07 done", ["70/70 --- done"]),
        ("x" * 9000 + "\nlast", ["x" * (8192 - 5), "last"]),
    ],
)
def test_a_growing_log_is_shown_as_on_a_terminal(log: Path, text: str, lines: list[str]) -> None:
    assert screen_lines(log, 3) == []
    log.write_text(text)
    assert screen_lines(log, 3) == lines
