"""What a call costs the calling thread: µs a block, in Python and in the C function alone, by pieces a block.

    bench_calls.py      (a daemon of its own; KVFUSED says which)
"""

from __future__ import annotations

import asyncio
import statistics
import time

from daemon import Daemon

import kvfuse
from kvfuse import _blocks
from kvfuse._native import ffi, lib

BLOCKS, ROUNDS, LAYERS = 64, 200, 30


def median_us(call, after) -> float:
    """Per block. `after` is not timed."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        what = call()
        times.append(time.perf_counter_ns() - begun)
        after(what)
    return statistics.median(times) / 1000 / BLOCKS


def pieces_of(memory: memoryview, block: int, nbytes: int, count: int, kind: str):
    each = nbytes // count
    views = [memory[block * nbytes + i * each : block * nbytes + (i + 1) * each] for i in range(count)]
    if kind == "buffers":
        return views
    address = _blocks.View(memory, kvfuse.Pointer).address + block * nbytes
    if kind == "pointers":
        return [kvfuse.Pointer(address + i * each, each) for i in range(count)]
    if kind == "tensors":
        import torch

        return [torch.frombuffer(view, dtype=torch.bfloat16) for view in views]
    table = ffi.new("uint64_t[]", [x for i in range(count) for x in (address + i * each, each)])
    return kvfuse.Pointers(ffi.buffer(table))


def measure(client: kvfuse.Client, space: kvfuse.Space, kind: str, count: int) -> None:
    nbytes = space.layout.block_bytes
    memory = memoryview(bytearray(BLOCKS * nbytes))
    keys = [b"%s-%d-%d" % (kind.encode(), count, i) for i in range(BLOCKS)]
    pieces = [pieces_of(memory, i, nbytes, count, kind) for i in range(BLOCKS)]
    blocks = [kvfuse.Block(key, p) for key, p in zip(keys, pieces)]
    space.put(blocks).wait().raise_for_status()

    make = median_us(lambda: [kvfuse.Block(key, p) for key, p in zip(keys, pieces)], lambda _: None)
    whole = median_us(lambda: space.get(blocks), lambda request: request.wait().raise_for_status())
    collect = median_us(lambda: _blocks.Batch(blocks, nbytes, 16, True, kvfuse.Pointer, kvfuse.Pointers), lambda _: None)
    batch = _blocks.Batch(blocks, nbytes, 16, True, kvfuse.Pointer, kvfuse.Pointers)
    statuses, number, address = ffi.new("int32_t[]", BLOCKS), ffi.new("kvf_request_t *"), batch.address
    c_alone = median_us(lambda: lib.kvfpy_get(space._c, address, BLOCKS, 0, 0, 0, ffi.NULL, statuses, number),
                        lambda _: lib.kvf_wait_request(client._c, number[0], ffi.NULL))
    print(f"| {kind} | {count} | {make:.2f} | {whole:.2f} | {collect:.2f} | {c_alone:.2f} |", flush=True)


def measure_latency(space: kvfuse.Space) -> None:
    """One match of 128 keys at a time, from the call to its result."""
    keys = [b"none-%d" % i for i in range(128)]
    batch = _blocks.Batch.of_keys(keys)
    number, address = ffi.new("kvf_request_t *"), batch.address

    def in_c():
        lib.kvfpy_match(space._c, address, 128, 0, number)
        lib.kvf_wait_request(space.client._c, number[0], ffi.NULL)

    async def in_loop():
        times = []
        for _ in range(2000):
            begun = time.perf_counter_ns()
            await space.match(keys)
            times.append(time.perf_counter_ns() - begun)
        return statistics.median(times) / 1000

    def timed(call):
        times = []
        for _ in range(2000):
            begun = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - begun)
        return statistics.median(times) / 1000

    for _ in range(3):  # the last counts: the first wake the machine up
        c, waited, awaited = timed(in_c), timed(lambda: space.match(keys).wait()), asyncio.run(in_loop())
    print(f"a match of 128 keys, p50 of 2000, one at a time: {c:.1f} µs in C, {waited:.1f} by wait(), {awaited:.1f} by await")


def main() -> None:
    daemon = Daemon("--host-bytes", "256MiB")
    try:
        with kvfuse.Client(daemon.address) as client:
            layout = kvfuse.Layout(layers=LAYERS, kv_heads=3, head_dim=64, block_tokens=16, model="bench")
            space = client.space("bench", layout)
            kinds = ["buffers", "pointers", "tables"]
            try:
                import torch  # noqa: F401

                kinds.append("tensors")
            except ImportError:
                print("NOT TESTED: what tensors cost (no torch)")
            print(f"µs a block, medians of {ROUNDS} calls of {BLOCKS} blocks of {layout.block_bytes} bytes")
            print("| pieces are | a block | making Block | get() in all | of it: collecting | the C call alone |")
            print("|---|---|---|---|---|---|")
            for kind in kinds:
                for count in (1, 60):
                    measure(client, space, kind, count)
            measure(client, space, "tables", 2880)
            measure_latency(space)
    finally:
        daemon.remove()


if __name__ == "__main__":
    main()
