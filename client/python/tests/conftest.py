"""Fixtures: a real daemon, clients of it, spaces of their own."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

os.environ.update(UCX_TLS="tcp", UCX_NET_DEVICES="lo", UCX_ERROR_SIGNALS="", UCX_WARN_UNUSED_ENV_VARS="n")

import pytest
from daemon import Daemon

import kvfuse

NOT_TESTED: list[str] = []
names = (f"space-{i}" for i in itertools.count())


def connect(address: str, **options: Any) -> kvfuse.Client:
    """A client that has time to connect: the machine may be busy, and all of it slow under AddressSanitizer."""
    return kvfuse.Client(address, **{"connect_timeout": 30, **options})


def not_tested(what: str) -> None:
    """Skips, and says so where tests/run.sh collects it."""
    NOT_TESTED.append(what)
    pytest.skip(what)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what in dict.fromkeys(NOT_TESTED):
        terminalreporter.write_line(f"NOT TESTED: {what} (client/python)")


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    daemon = Daemon("--host-bytes", "256MiB")
    yield daemon
    daemon.remove()


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """One that a test may stop and kill."""
    daemon = Daemon("--host-bytes", "64MiB")
    yield daemon
    daemon.remove()


@pytest.fixture(params=["shared", "network"])
def client(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[kvfuse.Client]:
    with connect(daemon.address, name="pytest", transport=request.param) as client:
        yield client


@pytest.fixture
def layout() -> kvfuse.Layout:
    return kvfuse.Layout(layers=4, planes=2, kv_heads=2, head_dim=16, block_tokens=8, dtype="bf16", model="pytest")


@pytest.fixture
def space(client: kvfuse.Client, layout: kvfuse.Layout) -> Iterator[kvfuse.Space]:
    name = next(names)
    yield client.space(name, layout)
    if client.connected:
        client.drop(name)


@pytest.fixture
def make_block(layout: kvfuse.Layout) -> Callable[[int], tuple[bytes, bytes]]:
    """(key, bytes) of block i, always the same."""
    return lambda i: (b"key-%d" % i, random.Random(i).randbytes(layout.block_bytes))
