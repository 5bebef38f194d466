"""What keeps memory alive, and what lets it go."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import time
import weakref

import pytest
from conftest import connect

import kvfuse
from kvfuse import Block, Status


class Buffer(bytearray):
    """One that can be watched."""


@pytest.fixture
def still(own_daemon, layout):
    """A space whose daemon answers only when it is let go."""
    client = connect(own_daemon.address, transport="network", ping_interval=30, request_timeout=20)
    space = client.space("still", layout)
    own_daemon.signal(signal.SIGSTOP)
    yield space
    own_daemon.signal(signal.SIGCONT)
    client.close()


def settle(client):
    deadline = time.monotonic() + 10
    while client._in_flight:
        client.poll()
        time.sleep(0.001)
        assert time.monotonic() < deadline


def test_a_buffer_cannot_be_resized_until_the_completion(own_daemon, still):
    out = bytearray(4096)
    request = still.get([Block(b"k", out)])
    with pytest.raises(BufferError):
        out.append(0)
    own_daemon.signal(signal.SIGCONT)
    assert request.wait().status is Status.NOT_FOUND
    out.append(0)


def test_a_dropped_request_keeps_its_memory_and_lets_it_go(own_daemon, still):
    out, data = Buffer(4096), Buffer(b"x" * 4096)
    watched = [weakref.ref(out), weakref.ref(data)]
    still.get([Block(b"k", out)])
    still.put([Block(b"l", [memoryview(data)[:100], memoryview(data)[100:]])])
    del out, data
    gc.collect()
    assert all(ref() is not None for ref in watched)
    own_daemon.signal(signal.SIGCONT)
    settle(still.client)
    gc.collect()
    assert not any(ref() for ref in watched)
    assert still.match([b"l"]).wait().matched == 1


def test_dropped_requests_are_let_go_by_the_next_calls(space, make_block):
    outs = [Buffer(4096) for _ in range(20)]
    watched = [weakref.ref(out) for out in outs]
    while outs:
        space.get([Block(b"k", outs.pop())])
    deadline = time.monotonic() + 10
    while any(ref() for ref in watched):
        space.match([b"k"]).wait()
        assert time.monotonic() < deadline
    assert not space.client._unreported


def test_a_client_that_is_closed_lets_everything_go(own_daemon, still):
    out = Buffer(4096)
    watched = weakref.ref(out)
    request = still.get([Block(b"k", out)])
    del out
    still.client.close()
    assert watched() is None and request.wait().status is Status.CANCELED


def test_a_client_that_is_dropped_is_closed(own_daemon, layout):
    client = connect(own_daemon.address, transport="network", ping_interval=30)
    space = client.space("dropped", layout)
    own_daemon.signal(signal.SIGSTOP)
    out = Buffer(4096)
    watched = [weakref.ref(out), weakref.ref(client)]
    request = space.get([Block(b"k", out)])
    del client, space, out
    gc.collect()
    assert all(ref() for ref in watched)  # the request holds its client
    del request
    gc.collect()
    assert not any(ref() for ref in watched)
    own_daemon.signal(signal.SIGCONT)


def test_memory_that_is_viewed_holds_the_client_open(daemon):
    client = connect(daemon.address)
    memory = client.memory(4096)
    view = memoryview(memory)
    with pytest.raises(BufferError, match="are alive: the client cannot be closed"):
        client.close()
    view[:2] = b"ab"
    assert client.connected
    view.release()
    client.close()
    assert memory.address == 0


def test_close_waits_for_requests_that_use_memory(own_daemon, layout):
    client = connect(own_daemon.address, transport="network", ping_interval=30)
    space = client.space("memory", layout)
    memory = client.memory(layout.block_bytes)
    own_daemon.signal(signal.SIGSTOP)
    request = space.get([Block(b"k", memoryview(memory))], timeout=0.3)
    client.close()
    assert request.wait().status is Status.TIMEOUT and memory.nbytes == 0
    own_daemon.signal(signal.SIGCONT)


def test_memory_that_is_dropped_goes_back(client):
    for _ in range(40):
        assert client.memory(4096).nbytes == 4096
    registration = client.register(bytearray(4096))
    del registration
    gc.collect()


def test_nothing_is_kept_after_completion(space, make_block):
    key, data = make_block(0)
    out, ids, previous = bytearray(len(data)), list(range(8)), b"before the first"
    view = memoryview(out)

    def round():
        space.put([Block(key, data, token_ids=ids, previous=previous)]).wait()
        space.get([Block(key, [view[:10], view[10:]])], bounds=True).wait()
        space.get([Block(key, view)]).wait()
        space.match([key, previous]).wait()
        space.delete([key]).wait()
        with pytest.raises(ValueError):
            space.put([Block(key, [data, data], token_ids=ids)])
        with pytest.raises(TypeError):
            space.get([Block(key, [view[:10], 7])])

    round()
    gc.collect()
    objects = (key, data, out, ids, previous, view, space)
    before = [sys.getrefcount(o) for o in objects]
    for _ in range(50):
        round()
    gc.collect()
    assert [sys.getrefcount(o) for o in objects] == before


def test_many_requests_leave_no_memory_behind(space, make_block):
    key, data = make_block(0)
    space.put([Block(key, data)]).wait()
    out = memoryview(bytearray(len(data)))
    pieces = [out[i : i + 64] for i in range(0, len(out), 64)]
    blocks = [Block(key, pieces)] * 16

    def many(count):
        for _ in range(count):
            space.get(blocks, bounds=True).wait()
            space.match([key] * 64).wait()
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    many(300)
    before = many(100)
    grown_kib = many(1500) - before
    # one request's arrays are 60 KiB: what is lost with each would be 90 MiB
    assert grown_kib < (64 << 10 if os.environ.get("KVFUSE_PRELOAD") else 8 << 10)


EXIT = """
import kvfuse, sys
client = kvfuse.Client(sys.argv[1], transport="network", ping_interval=30)
layout = kvfuse.Layout(layers=4, kv_heads=2, head_dim=16, block_tokens=8, model="pytest")
space = client.space("exit", layout)
memory = client.memory(8192)
view = memoryview(memory)
outs = [bytearray(4096) for _ in range(50)]
requests = [space.get([kvfuse.Block(b"%d" % i, out)]) for i, out in enumerate(outs)]
space.put([kvfuse.Block(b"x", view[:4096])])
print("ends")
"""


def test_an_interpreter_may_end_with_requests_under_way(own_daemon):
    for is_still in (False, True):
        if is_still:
            own_daemon.signal(signal.SIGSTOP)
            threaded = EXIT.replace('client = kvfuse', 'own = "127"\nclient = kvfuse')
            process = subprocess.Popen([sys.executable, "-c", threaded, own_daemon.address], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
            time.sleep(0.3)
            own_daemon.signal(signal.SIGCONT)
        else:
            process = subprocess.Popen([sys.executable, "-c", EXIT, own_daemon.address], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "ends\n", "")


FORK = """
import gc, os, sys, kvfuse
client = kvfuse.Client(sys.argv[1])
layout = kvfuse.Layout(layers=4, kv_heads=2, head_dim=16, block_tokens=8, model="pytest")
space = client.space("fork", layout)
memory = client.memory(8192)
data = bytes(4096)
under_way = space.put([kvfuse.Block(b"before", data)])
pid = os.fork()
if pid == 0:
    try:
        for call in (under_way.done, under_way.wait, lambda: space.match([b"a"]), client.ping, client.fileno, client.poll,
                     lambda: kvfuse.Client(sys.argv[1])):
            try:
                call()
            except kvfuse.Error as error:
                assert error.status is kvfuse.Status.UNSUPPORTED and "forked while a client was open" in str(error)
            else:
                raise AssertionError(f"{call} went on")
        client.close()
        memory.free()
        del client, space, memory, under_way
        gc.collect()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
under_way.wait().raise_for_status()
assert space.match([b"before"]).wait().matched == 1
print("parent goes on", flush=True)
memory.free()
client.close()
pid = os.fork()
if pid == 0:
    with kvfuse.Client(sys.argv[1]) as own:
        assert own.space("fork", layout).match([b"before"]).wait().matched == 1
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_is_told_and_the_parent_goes_on(daemon):
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, daemon.address], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent goes on\n", "")
