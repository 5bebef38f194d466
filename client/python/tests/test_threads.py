"""Waiters, pollers and closers in several threads."""

from __future__ import annotations

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import connect

import kvfuse
from kvfuse import Block, Status


def test_threads_put_and_get_what_is_theirs(space, make_block):
    def one(number):
        rng = random.Random(number)
        for round in range(40):
            key, data = make_block(rng.randrange(1 << 30))
            put = space.put([Block(key, data)])
            if rng.random() < 0.3:
                space.client.poll()
            assert put.wait().status in (Status.OK, Status.EXISTS)
            out = bytearray(len(data))
            got = space.get([Block(key, out)])
            while rng.random() < 0.5 and not got.done():
                time.sleep(0)
            got.wait().raise_for_status()
            assert out == data, round

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert space.client.poll() == []


def test_all_who_wait_for_one_request_get_its_result(space):
    with ThreadPoolExecutor(6) as pool:
        for _ in range(100):
            request = space.match([b"a"])
            results = [f.result(10) for f in [pool.submit(request.wait) for _ in range(6)]]
            assert all(r is results[0] for r in results)


def test_a_poller_does_not_take_from_those_who_wait(space):
    """Whoever takes a completion hands it on: also one whose status is what the library says of a request that it does not know."""
    stop = threading.Event()
    polled = []

    def poller():
        while not stop.is_set():
            polled.extend(space.client.poll())

    threads = [threading.Thread(target=poller) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        waited = [space.match([b"a"] * (i % 7 + 1)) for i in range(500)]
        for request in waited:
            assert request.wait().status is Status.OK
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    numbers = [r._number for r in polled]
    assert len(numbers) == len(set(numbers))


def test_memory_is_free_when_wait_returns_whoever_took_the_completion(space):
    stop = threading.Event()

    def poller():
        while not stop.is_set():
            space.client.poll()

    threads = [threading.Thread(target=poller) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        out = bytearray(4096)
        for _ in range(500):
            space.get([Block(b"none", out)]).wait()
            out.append(0)
            del out[-1]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_poll_tells_each_request_once(space):
    requests = [space.match([b"%d" % i]) for i in range(150)]
    seen = []
    deadline = time.monotonic() + 10
    while len(seen) < 150:
        seen += space.client.poll()
        assert time.monotonic() < deadline
    assert sorted(r._number for r in seen) == [r._number for r in requests]
    assert space.client.poll() == []


def test_poll_tells_what_another_call_saw(space):
    first, second = space.match([b"a"]), space.match([b"b"])
    second.wait()
    while not first.done():
        time.sleep(0.001)
    assert space.client.poll() == [first] and space.client.poll() == []


def test_close_waits_for_those_who_wait(own_daemon, layout):
    client = connect(own_daemon.address)
    space = client.space("close", layout)
    own_daemon.signal(signal.SIGSTOP)
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(space.match([b"a"], timeout=0.4).wait) for _ in range(3)]
        time.sleep(0.05)
        left = space.match([b"b"], timeout=5)
        begun = time.monotonic()
        client.close()
        assert time.monotonic() - begun < 3
        assert {f.result().status for f in waits} == {Status.TIMEOUT}
    assert left.done() and left.wait().status is Status.CANCELED
    own_daemon.signal(signal.SIGCONT)


def test_the_gil_is_free_while_python_waits(own_daemon, layout):
    with connect(own_daemon.address, ping_interval=30) as client:
        space = client.space("gil", layout)
        own_daemon.signal(signal.SIGSTOP)
        ticks, stop = [], threading.Event()

        def tick():
            while not stop.wait(0.005):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        assert space.match([b"a"], timeout=0.5).wait().status is Status.TIMEOUT
        with pytest.raises(kvfuse.Timeout):
            client.ping(0.3)
        stop.set()
        thread.join()
        own_daemon.signal(signal.SIGCONT)
        assert len(ticks) > 40 and max(b - a for a, b in zip(ticks, ticks[1:])) < 0.25
