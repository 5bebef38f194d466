"""The package's annotations hold, and say what callers rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import not_tested

import kvfuse

CALLER = """
import kvfuse
async def call(space: kvfuse.Space, client: kvfuse.Client) -> None:
    block = kvfuse.Block(b"key", [bytearray(8), kvfuse.Pointer(0, 8), memoryview(b"")], token_ids=[1, 2])
    request = space.get([block], bounds=True)
    reveal_type(await request)
    reveal_type(request.wait().statuses)
    reveal_type(client.poll())
    reveal_type(space.match([b"a"]).wait().matched)
    with client as same:
        memoryview(same.memory(8))
"""


def test_the_package_is_strictly_typed(tmp_path):
    try:
        import mypy  # noqa: F401
    except ImportError:
        not_tested("mypy --strict on the package")
    (tmp_path / "caller.py").write_text(CALLER)
    modules = [f"kvfuse.{path.stem}" for path in Path(kvfuse.__file__).parent.glob("[a-z]*.py")]  # without engines' connectors
    assert len(modules) > 5
    options = [x for module in ("kvfuse", "caller", *modules) for x in ("-m", module)]
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), *options],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("kvfuse.request.Result", "list[kvfuse.status.Status]", "list[kvfuse.request.Request]", '"int"'):
        assert said in done.stdout


@pytest.mark.parametrize("name", kvfuse.__all__)
def test_all_that_is_public_is_documented(name):
    thing = getattr(kvfuse, name)
    if not isinstance(thing, type):
        assert name in ("Piece", "Pieces") or thing.__doc__
        return
    assert thing.__doc__ and not thing.__doc__.startswith(name + "(")
    for member, value in vars(thing).items():
        if callable(value) and not member.startswith("_") and getattr(value, "__module__", "").startswith("kvfuse"):
            assert value.__doc__, f"{name}.{member}"
