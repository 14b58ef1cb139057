"""Layers of settings: where a value came from, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from hpc_dl.errors import UserError
from hpc_dl.spec.job import load_job
from hpc_dl.spec.layers import BadValueError, Layer, build, check_lines, is_file, read_toml


class Settings(msgspec.Struct, frozen=True):
    """A small object of each kind of field."""

    count: Annotated[int, Meta(ge=1)] = 1
    kind: Literal["async", "single"] = "async"
    code: Annotated[str, Meta(pattern="^[a-z]+$", title="small letters")] = "a"
    table: dict[str, str] = {}
    words: tuple[str, ...] = ()


def message(*layers: Layer) -> str:
    with pytest.raises(UserError) as caught:
        build(Settings, layers, "job")
    return str(caught.value)


def test_the_last_layer_wins_and_tables_are_merged() -> None:
    layers = [Layer({"count": 2, "table": {"a": "1", "b": "1"}}, "first"), Layer({"table": {"b": "2"}}, "second")]
    assert build(Settings, layers, "job") == Settings(count=2, table={"a": "1", "b": "2"})


def test_text_is_taken_for_a_number() -> None:
    assert build(Settings, [Layer({"count": "4"}, "--count")], "job").count == 4


def test_an_unknown_key_shows_the_nearest_and_all_known_ones() -> None:
    text = message(Layer({"cuont": 2}, "--cuont"))
    assert text.startswith("--cuont: unknown job key 'cuont' (did you mean 'count'?); known keys: 'count', 'kind'")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("count", 0, "expected int >= 1"),
        ("count", "four", "expected int, got str"),
        ("count", True, "expected int, got bool"),
        ("kind", "asinc", "not a known kind (did you mean 'async'?); allowed: 'async', 'single'"),
        ("kind", "$.count", "not a known kind; allowed: 'async', 'single'"),
        ("kind", " - at `$.count`", "not a known kind; allowed: 'async', 'single'"),
        ("code", "A", "expected small letters"),
        ("code", 7, "expected small letters; as text, in quotes"),
        ("table", {"a": 1}, "expected str, got int"),
        ("table", {1: "a"}, "expected str, got int"),
        ("words", ["a", 1], "expected str, got int"),
        ("words", "a", "expected array, got str"),
    ],
)
def test_an_invalid_value_names_where_it_was_set(key: str, value: object, reason: str) -> None:
    layers = [Layer({"count": 2, "kind": "single"}, "first"), Layer({key: value}, "keyword {key}")]
    assert message(*layers) == f"keyword {key}: {key} = {value!r}: {reason}"


def test_the_stronger_layer_is_blamed_for_its_own_value_only(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text("count = 2\nkind = 'x'\n")
    assert message(read_toml(file), Layer({"count": 3}, "--count")).startswith(f"{file}, line 2: kind = 'x'")
    assert message(read_toml(file), Layer({"kind": "y"}, "--kind")).startswith("--kind: kind = 'y'")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# c\n\ncount = 0", 3),
        ('"count" = 0', 1),
        ("words = [\n  'x',\n]\ncount = 0", 4),
        ("code = 'b'\ntable.a = 1", 2),
        ("code = 'b'\n[table]\na = 1", 2),
        ("code = 'b'\ntable = { a = 1 }", 2),
        ("code = 'b'\n\n[ nonsense ] # c\n", 3),
    ],
)
def test_a_file_is_named_with_the_line(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "{key}.toml"
    file.write_text(text)
    assert f".toml, line {line}: " in message(read_toml(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"count = \n", "line 1"),
        (b"count = 1\ncount = 2\n", "line 2"),
        (b"code = '\xff'", "can't be read"),
        (b"count = " + b"9" * 5000, "digits"),
        (b"words = " + b"[" * 5000, "recursion"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "job.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: .*{reason}"):
        read_toml(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.toml: can't be read: No such file"):
        read_toml(tmp_path / "none.toml")


def test_a_missing_key_names_the_file(tmp_path: Path) -> None:
    class Strict(msgspec.Struct):
        cores: int

    file = tmp_path / "site.toml"
    file.write_text("")
    with pytest.raises(UserError) as caught:
        build(Strict, [Layer({}, "keyword {key}"), read_toml(file)], "site")
    assert str(caught.value) == f"{file}: object missing required field cores"


@pytest.mark.parametrize("key", ["table.a", "table[0]", "table"])
def test_a_check_of_the_whole_object_names_where_the_key_was_set(tmp_path: Path, key: str) -> None:
    def check(_: Settings) -> None:
        raise BadValueError(key, "does not fit")

    file = tmp_path / "job.toml"
    file.write_text("count = 2\n[table]\nb = '1'\na = '1'\n")
    with pytest.raises(UserError) as caught:
        build(Settings, [read_toml(file)], "job", check)
    assert str(caught.value) == f"{file}, line {4 if key == 'table.a' else 2}: does not fit"


@pytest.mark.parametrize("odd", ["\n", "\0", "\x1b", "\x7f", "\r", "\udcff"])
def test_texts_stand_in_one_line(odd: str) -> None:
    for value, key in ((odd, "a"), (["", odd], "a[1]"), ({"b": odd}, "a.b")):
        with pytest.raises(BadValueError, match="can't stand in a line") as caught:
            check_lines({"a": value})
        assert caught.value.key == key
    check_lines({"a": "tab\t é \u2028", "b": [1, None], "c": {"d": 1.5}})


def test_a_name_that_no_file_can_have_is_no_file(tmp_path: Path) -> None:
    assert not is_file(tmp_path / ("a" * 300))
    assert not is_file(tmp_path / "a\0b")
    assert not is_file(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(Settings.__struct_fields__) | st.text(max_size=6), VALUES, max_size=4))
def test_any_values_give_an_object_or_a_user_error(values: dict[str, object]) -> None:
    try:
        assert isinstance(build(Settings, [Layer(values, "here")], "job"), Settings)
    except UserError as error:
        assert str(error).startswith("here: ")  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("text", ["name" + ".a" * 5000 + " = 1", "name" + ".a" * 150 + " = 1"])
def test_a_deep_table_is_one_short_message(tmp_path: Path, text: str) -> None:
    file = tmp_path / "deep.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_job(file)
    assert str(error.value).startswith(f"{file}, line 1: ")
    assert len(str(error.value)) < 500
