"""Node lists: Slurm's text to names and back."""

from __future__ import annotations

import re
import string

import pytest
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.spec.nodelist import expand, fold

NAMES = st.lists(
    st.from_regex(r"[a-z]{1,3}[0-9]{1,3}(n[0-9]{1,2})?", fullmatch=True), min_size=1, max_size=30, unique=True
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("nvb[16,19,25]", "nvb16 nvb19 nvb25"),
        ("nvb[1,3-4]", "nvb1 nvb3 nvb4"),
        # What `scontrol show hostnames` of Slurm 22.05 prints for these, in this order.
        ("nvb[19,16]", "nvb19 nvb16"),
        ("b[2-3],a1,b1", "b2 b3 a1 b1"),
        ("r[1-2]n[1-2]", "r1n1 r1n2 r2n1 r2n2"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[1,01]", "n1 n01"),
        ("n[9-011]", "n9 n10 n11"),
        ("n,,m", "n m"),
        ("login-1.cluster", "login-1.cluster"),
    ],
)
def test_names_come_in_the_order_of_the_list(text: str, names: str) -> None:
    assert expand(text) == names.split()


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("nvb[16,19", 3, "unexpected '['"),
        ("nvb16]", 5, "unexpected ']'"),
        ("nvb[1[2]]", 3, "unexpected '['"),
        ("nvb[1-x]", 4, "found '1-x'"),
        ("nvb[1,,2]", 6, "found ''"),
        ("nvb[]", 4, "found ''"),
        ("nvb[3-2]", 4, "runs backwards"),
        ("nvb1 nvb2", 4, "unexpected ' '"),
        ("nvb[1-3,$(id)]", 8, "found '$(id)'"),
        ("@gpu", 0, "unexpected '@'"),
        ("n1,n[1-2]", 3, "names 'n1' twice"),
        ("a,n[1-999999999]", 4, "more than 100000 nodes"),
        ("a,r[1-1000]n[1-1000]", 2, "more than 100000 nodes"),
        ("n[1-60000,100001-160000]", 10, "more than 100000 nodes"),
        ("a[1-60000],b[1-60000]", 11, "more than 100000 nodes"),
        (f"a[1-3],n{'[0-99999]' * 200}", 7, "more than 100000 nodes"),
        ("n[" + "9" * 5000 + "]", 2, "expected a number"),
    ],
)
def test_an_error_points_at_its_place(text: str, column: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        expand(text)
    first, shown, caret = str(caught.value).split("\n")
    assert message in first
    assert (shown.strip(), caret) == (text, " " * (column + 2) + "^")


@pytest.mark.parametrize("text", ["", ","])
def test_an_empty_list_says_what_is_expected(text: str) -> None:
    with pytest.raises(UserError, match=re.escape("empty; expected for example 'nvb[16,19,25]'")):
        expand(text)


@given(NAMES)
def test_folded_names_expand_to_the_same_names_in_the_same_order(names: list[str]) -> None:
    assert expand(fold(names)) == names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("nvb16 nvb17 nvb18 nvb25 login", "nvb[16-18,25],login"),
        ("n08 n09 n10 n9 n10", "n[08-10,9]"),
        ("n9 n10 n011", "n[9-10,011]"),
        ("r1n1 r1n2 r2n1", "r1n[1-2],r2n1"),
        ("a b", "a,b"),
        (f"n{'1' * 120} n{'1' * 119}2", f"n{'1' * 102}[{'1' * 18}-{'1' * 17}2]"),
    ],
)
def test_names_are_folded(names: str, text: str) -> None:
    assert fold(names.split()) == text


@given(NAMES)
def test_plain_lists_keep_their_order(names: list[str]) -> None:
    assert expand(",".join(names)) == names


@given(NAMES)
def test_clustershell_reads_the_same(names: list[str]) -> None:
    text = fold(names)
    assert set(expand(text)) == set(NodeSet(text, resolver=RESOLVER_NOGROUP))


@given(st.text(max_size=30) | st.text(alphabet="nb019-,[] " + string.punctuation, max_size=30))
def test_any_text_gives_names_or_a_user_error(text: str) -> None:
    try:
        names = expand(text)
    except UserError:
        return
    assert names
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)
