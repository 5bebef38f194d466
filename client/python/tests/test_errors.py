"""What the daemon and the network fail with, and that the client comes back."""

from __future__ import annotations

import re
import signal
import socket
import time

import pytest
from conftest import connect, names

import kvfuse
from kvfuse import Block, Status
from kvfuse._native import ffi
from kvfuse.status import error_of


def test_status_is_every_status_of_the_header():
    numbers = {name.removeprefix("KVF_"): number for number, name in ffi.typeof("kvf_status_t").elements.items()}
    assert {s.name: int(s) for s in Status} == numbers
    assert {name for name in Status.__members__} == set(numbers) | {name.removeprefix("ERR_") for name in numbers}
    for name in numbers:
        assert Status[name].text and not re.search("unknown", Status[name].text)
    assert kvfuse.version() == kvfuse.__version__


def test_every_status_has_its_exception():
    classes = {Status.NOT_FOUND: kvfuse.NotFound, Status.LAYOUT: kvfuse.LayoutMismatch, Status.POLICY: kvfuse.PolicyMismatch,
               Status.BUSY: kvfuse.Busy, Status.NO_SPACE: kvfuse.NoSpace, Status.TIMEOUT: kvfuse.Timeout,
               Status.UNREACHABLE: kvfuse.Unreachable, Status.DISCONNECTED: kvfuse.Disconnected, Status.CORRUPT: kvfuse.Corrupt}
    for status in Status:
        error = error_of(status)
        assert type(error) is classes.get(status, kvfuse.Error)
        assert error.status is status and error.name == "KVF_" + status.name and str(error) == status.text
    assert isinstance(error_of(Status.TIMEOUT), TimeoutError) and isinstance(error_of(Status.DISCONNECTED), ConnectionError)
    assert error_of(-77).status is Status.ERR_INTERNAL


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_where_nobody_listens_is_unreachable():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(kvfuse.Unreachable, match=address) as raised:
        kvfuse.Client(address, connect_timeout=3)
    assert raised.value.status is Status.UNREACHABLE


def test_who_listens_and_says_nothing_times_out():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        with pytest.raises(kvfuse.Error) as raised:
            kvfuse.Client(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.5)
        assert raised.value.status in (Status.TIMEOUT, Status.UNREACHABLE) and time.monotonic() - begun < 3


def test_what_is_no_address_says_so():
    with pytest.raises(kvfuse.Error, match="nonsense") as raised:
        kvfuse.Client("nonsense")
    assert raised.value.status is Status.ADDRESS


def test_another_layout_or_policy_names_what_differs(client, layout):
    name = next(names)
    client.space(name, layout, policy="error 0.05")
    with pytest.raises(kvfuse.LayoutMismatch, match="layers: the space has 4, asked for 5"):
        client.space(name, kvfuse.Layout(layers=5, kv_heads=2, head_dim=16, block_tokens=8, model="pytest"), policy="error 0.05")
    with pytest.raises(kvfuse.LayoutMismatch, match="model: the space has 'pytest', asked for 'other'"):
        client.space(name, kvfuse.Layout(layers=4, kv_heads=2, head_dim=16, block_tokens=8, model="other"), policy="error 0.05")
    with pytest.raises(kvfuse.PolicyMismatch, match="policy: the space has error, asked for exact"):
        client.space(name, layout, policy="exact")
    with pytest.raises(kvfuse.PolicyMismatch, match="asked for .*0.1"):
        client.space(name, layout, policy="error 0.1")
    client.space(name, layout, policy="error K=0.05,V=0.05")
    client.drop(name)


def test_a_space_that_is_not_there_is_not_found(client, space, layout, make_block):
    with pytest.raises(kvfuse.NotFound, match="there is no space of this name"):
        client.space("none", layout, create=False)
    with pytest.raises(kvfuse.NotFound):
        client.drop("none")
    assert client.space(space.name, layout, create=False).match([b"a"]).wait().matched == 0
    client.drop(space.name)
    assert space.put([Block(*make_block(0))]).wait().status is Status.NOT_FOUND
    assert client.space(space.name, layout).put([Block(*make_block(0))]).wait().status is Status.OK


def test_more_memories_than_a_client_has_is_busy(client):
    memories = []
    with pytest.raises(kvfuse.Busy):
        for _ in range(16):
            memories.append(client.memory(4096))
    assert len(memories) == 15
    memories.pop().free()
    memories.append(client.memory(4096))


def test_a_block_beyond_the_daemons_segments_is_too_large(own_daemon):
    big = kvfuse.Layout(layers=64, kv_heads=8, head_dim=1024, block_tokens=16, model="big")  # 32 MiB
    with connect(own_daemon.address) as client:
        with pytest.raises(kvfuse.Error, match="33554432 bytes is too large for the daemon") as raised:
            client.space("big", big)
        assert raised.value.status is Status.TOO_LARGE


@pytest.mark.parametrize("transport", ["shared", "network"])
def test_a_daemon_that_stands_still_costs_the_timeout(own_daemon, layout, make_block, transport):
    with connect(own_daemon.address, transport=transport, ping_interval=30) as client:
        space = client.space("still", layout)
        key, data = make_block(0)
        space.put([Block(key, data)]).wait().raise_for_status()
        own_daemon.signal(signal.SIGSTOP)
        begun = time.monotonic()
        out = bytearray(len(data))
        result = space.get([Block(key, out)], timeout=0.3).wait()
        assert result.status is Status.TIMEOUT and 0.29 < time.monotonic() - begun < 2.5
        with pytest.raises(kvfuse.Timeout):
            result.raise_for_status()
        with pytest.raises(TimeoutError):
            client.ping(timeout=0.2)
        own_daemon.signal(signal.SIGCONT)
        space.get([Block(key, out)]).wait().raise_for_status()
        assert out == data


@pytest.mark.parametrize("transport", ["shared", "network"])
def test_a_daemon_that_is_killed_is_found_again(own_daemon, layout, make_block, transport):
    with connect(own_daemon.address, transport=transport, ping_interval=0.2, request_timeout=5) as client:
        space = client.space("lost", layout)
        key, data = make_block(0)
        space.put([Block(key, data)]).wait().raise_for_status()
        own_daemon.signal(signal.SIGSTOP)  # so that requests are in the middle
        out = bytearray(len(data))
        requests = [space.get([Block(key, out)], timeout=2), space.put([Block(b"other", data)], timeout=2)]
        time.sleep(0.05)
        assert not any(request.done() for request in requests)
        own_daemon.signal(signal.SIGKILL)
        for request in requests:
            result = request.wait()
            assert result.status in (Status.DISCONNECTED, Status.TIMEOUT), result
            with pytest.raises((kvfuse.Disconnected, kvfuse.Timeout)):
                result.raise_for_status()
        assert not client.connected
        begun = time.monotonic()
        assert space.match([key], timeout=0.2).wait().status in (Status.TIMEOUT, Status.DISCONNECTED)
        assert time.monotonic() - begun < 2
        own_daemon.start()
        assert space.match([key]).wait() == kvfuse.Result(Status.OK, [], 0)  # it waits for the connection; the store is empty
        space.put([Block(key, data)]).wait().raise_for_status()
        space.get([Block(key, out)]).wait().raise_for_status()
        assert out == data and client.connected and client.info.reconnects == 1


def test_info_and_ping_say_how_it_is(daemon):
    with connect(daemon.address, transport="network") as client:
        assert client.info == kvfuse.ClientInfo(True, False, "", kvfuse.version(), client.info.ucx_version, 0)
        assert 0 < client.ping() < 1
    with connect(daemon.address) as client:
        assert client.info.shared_memory and client.info.not_shared_why == ""


def test_a_closed_client_says_so(daemon, layout, make_block):
    client = connect(daemon.address)
    space = client.space("closed", layout)
    memory = client.memory(4096)
    client.close()
    client.close()
    assert not client.connected and memory.nbytes == 0
    memory.free()
    for call in (client.ping, client.fileno, lambda: client.info, lambda: space.put([Block(*make_block(0))]), lambda: client.memory(1),
                 lambda: space.match([b"a"]), lambda: client.space("a", layout), lambda: client.register(bytearray(8))):
        with pytest.raises(kvfuse.Error, match="the client is closed"):
            call()
    assert client.poll() == []
