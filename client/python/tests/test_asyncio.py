"""await: one loop and several, many requests, cancelled awaits, a client that is closed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest
from conftest import connect

import kvfuse
from kvfuse import Block, Status


def test_many_awaits_at_once_each_get_their_own(space, make_block):
    count = 300
    data = dict(make_block(i) for i in range(count))

    async def round_trip(key):
        await asyncio.sleep(0)
        put = await space.put([Block(key, data[key])])
        put.raise_for_status()
        out = bytearray(len(data[key]))
        got, matched = await asyncio.gather(space.get([Block(key, out)]), space.match([key, b"none"]))
        got.raise_for_status()
        assert out == data[key] and matched.matched == 1
        return key

    async def main():
        return await asyncio.gather(*(round_trip(key) for key in data))

    assert asyncio.run(main()) == list(data)
    assert space.client.poll() == []


def test_a_request_may_be_awaited_often_and_late(space):
    async def main():
        request = space.match([b"a"])
        results = await asyncio.gather(*(wrap(request) for _ in range(5)))
        assert all(r is results[0] for r in results)
        assert await request is results[0] and request.wait() is results[0]
        waited = space.match([b"b"])
        waited.wait()
        assert (await waited).status is Status.OK

    async def wrap(request):
        return await request

    asyncio.run(main())


def test_loops_in_several_threads_share_a_client(space, make_block):
    failures = []

    def one(number):
        async def main():
            for round in range(30):
                key, data = b"%d-%d" % (number, round), make_block(number)[1]
                (await space.put([Block(key, data)])).raise_for_status()
                outs = [bytearray(len(data)) for _ in range(4)]
                for result in await asyncio.gather(*(space.get([Block(key, o)]) for o in outs)):
                    result.raise_for_status()
                assert all(o == data for o in outs)

        try:
            asyncio.run(asyncio.wait_for(main(), 20))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_await_and_a_wait_in_another_thread_both_end(space):
    async def main():
        for _ in range(200):
            request = space.match([b"a"])
            thread = asyncio.to_thread(request.wait)
            results = await asyncio.wait_for(asyncio.gather(request, thread), 10)
            assert results[0] is results[1]

    asyncio.run(main())


def test_what_another_thread_sees_ends_the_await(own_daemon, layout):
    """The loop is blocked while a thread takes its completion."""
    with connect(own_daemon.address) as client:
        space = client.space("stolen", layout)

        async def main():
            own_daemon.signal(signal.SIGSTOP)
            task = asyncio.ensure_future(wrap(space.match([b"a"])))
            await asyncio.sleep(0.01)
            own_daemon.signal(signal.SIGCONT)
            thread = threading.Thread(target=lambda: [client.poll() or time.sleep(0.001) for _ in range(100)])
            thread.start()
            time.sleep(0.2)  # this loop does not turn meanwhile
            thread.join()
            return await asyncio.wait_for(task, 5)

        async def wrap(request):
            return await request

        assert asyncio.run(main()).status is Status.OK


def test_a_cancelled_await_leaves_the_request(own_daemon, layout, make_block):
    with connect(own_daemon.address) as client:
        space = client.space("cancelled", layout)

        async def main():
            own_daemon.signal(signal.SIGSTOP)
            key, data = make_block(0)
            request = space.put([Block(key, data)])
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wrap(request), 0.05)
            assert not request.done()
            own_daemon.signal(signal.SIGCONT)
            assert (await request).status is Status.OK

        async def wrap(request):
            return await request

        asyncio.run(main())


def test_a_client_that_is_closed_ends_awaits(own_daemon, layout):
    client = connect(own_daemon.address)
    space = client.space("closing", layout)

    async def main():
        own_daemon.signal(signal.SIGSTOP)
        task = asyncio.ensure_future(wrap(space.match([b"a"])))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(client.close)
        result = await asyncio.wait_for(task, 5)
        assert result.status is Status.CANCELED
        await asyncio.sleep(0)

    async def wrap(request):
        return await request

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    own_daemon.signal(signal.SIGCONT)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_loops_come_and_go(space):
    async def main():
        assert (await space.match([b"a"])).status is Status.OK

    asyncio.run(main())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_the_descriptor_is_readable_while_completions_wait(client, space):
    import select

    descriptor = client.fileno()
    assert not select.select([descriptor], [], [], 0)[0]
    requests = [space.match([b"%d" % i]) for i in range(10)]
    seen = []
    while len(seen) < len(requests):
        assert select.select([descriptor], [], [], 5)[0]
        seen += client.poll()
    assert {r._number for r in seen} == {r._number for r in requests} and all(r.done() for r in requests)
    assert not select.select([descriptor], [], [], 0)[0] and client.poll() == []
