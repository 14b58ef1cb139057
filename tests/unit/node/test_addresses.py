"""Where the processes of a job reach one another."""

from __future__ import annotations

import socket

import pytest

from hpc_dl.errors import UserError
from hpc_dl.machine import ipv4_addresses
from hpc_dl.node import addresses
from hpc_dl.node.addresses import own_host, without_proxy
from hpc_dl.planning.place import place, resolve
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import NodeFacts
from hpc_dl.spec.site import Site


@pytest.mark.parametrize(
    ("keys", "node", "host"),
    [
        ({}, "n1", "n1"),
        ({"interconnect_suffix": "-ib0"}, "n1", "n1-ib0"),
        ({"interconnect_suffix": "i"}, "node3300.dodrio.os", "node3300i.dodrio.os"),
        ({"address": "127.0.0.1", "interconnect_suffix": "i"}, "n1", "127.0.0.1"),
    ],
)
def test_a_nodes_name_tells_its_host(keys: dict[str, str], node: str, host: str) -> None:
    assert own_host(Site(cores=1, **keys), node) == host  # type: ignore[arg-type]


def test_the_loopback_interface_has_its_address() -> None:
    assert ipv4_addresses()["lo"] == "127.0.0.1"
    assert own_host(Site(cores=1, interface="lo"), "n1") == "127.0.0.1"


def test_an_interface_that_is_missing_is_told_with_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "ipv4_addresses", lambda: {"lo": "127.0.0.1", "ib1": "10.0.0.7"})
    wanted = (
        r"interface = 'ib0': node n1 has no IPv4 address on an interface of this name \(did you mean 'ib1'\?\);"
        r" it has lo \(127\.0\.0\.1\), ib1 \(10\.0\.0\.7\); correct"
    )
    with pytest.raises(UserError, match=wanted):
        own_host(Site(cores=1, interface="ib0"), "n1")


def test_the_full_name_is_the_first_with_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"n1": "n1.example.org", "n2": "localhost.localdomain", "": "n2.example.org"}
    monkeypatch.setattr(socket, "getfqdn", lambda name="": known.get(name, name))
    site = Site(cores=1, full_names=True, interconnect_suffix="-ib0")
    assert own_host(site, "n1") == "n1-ib0.example.org"
    assert own_host(site, "n2") == "n2-ib0.example.org"
    assert own_host(site, "n3.other.org") == "n3-ib0.other.org"


def test_a_node_without_a_full_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda name="": name or "localhost.localdomain")
    with pytest.raises(
        UserError, match=r"full_names = true: node n1 has no full name, only 'n1', 'localhost\.localdom"
    ):
        own_host(Site(cores=1, full_names=True), "n1")


def test_processes_are_where_the_nodes_say_that_they_are() -> None:
    site = Site(cores=4, interface="ib0", ports=(2000, 2999))
    job = resolve(JobSpec(nodes=2, mode="multiworker"), site)
    facts = [NodeFacts("n1", host="10.0.0.1"), NodeFacts("n2", host="10.0.0.2")]
    assert place(job, site, facts).cluster() == {"worker": ["10.0.0.1:2000", "10.0.0.2:2001"]}


def test_processes_reach_one_another_without_the_proxy() -> None:
    cluster = {"worker": ["n1-ib0:2000", "n2-ib0:2001"], "ps": ["n1-ib0:2002", "[::1]:2000"]}
    assert without_proxy({"PATH": "/bin", "no_proxy": "a"}, cluster) == {}
    hosts = "localhost,127.0.0.1,n1-ib0,n2-ib0,::1"
    assert without_proxy({"http_proxy": "http://p:1"}, cluster) == {"no_proxy": hosts, "NO_PROXY": hosts}
    found = without_proxy({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example.org,n1-ib0"}, cluster)
    assert found["no_proxy"] == ".example.org,n1-ib0,localhost,127.0.0.1,n2-ib0,::1"
