"""Figures that the tests give, printed at the end, and the engine that all are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rig import Engine

_figures: list[tuple[str, str]] = []


@pytest.fixture
def figure() -> Callable[[str, str], None]:
    """figure(what, value): a line of the table."""

    def add(what: str, value: str) -> None:
        _figures.append((what, value))
        print(f"{what}: {value}")

    return add


@pytest.fixture(scope="session")
def plain() -> Iterator[Engine]:
    """An engine without the connector."""
    with Engine(max_logprobs=-1) as engine:
        yield engine


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    write = terminalreporter.write_line
    write("")
    for what, value in _figures:
        write(f"| {what} | {value} |")
    failed = len(terminalreporter.stats.get("failed", [])) + len(terminalreporter.stats.get("error", []))
    write("")
    write(f"{len(terminalreporter.stats.get('passed', []))} passed, {failed} failed")
