"""A real kvfused in a process and a folder of its own, on a free port."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

READY_S, END_S = 10, 15
PR_SET_PDEATHSIG = 1
CHECKOUT = Path(__file__).resolve().parents[3]


_prctl = ctypes.CDLL(None).prctl


def _end_with_parent() -> None:
    """Also where a test's process is aborted, by a sanitizer, say."""
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


class Daemon:
    """kvfused. `address` stays the same after start() again."""

    def __init__(self, *options: str) -> None:
        self.binary = os.environ.get("KVFUSED", str(CHECKOUT / "build/daemon/kvfused"))
        self.folder = Path(tempfile.mkdtemp(prefix="kvfused-test-"))
        self.options = options
        self.address = "127.0.0.1:0"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        log = self.folder / "log"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [self.binary, "--address", self.address, "--runtime-dir", str(self.folder), *self.options], stderr=file,
                env={**os.environ, "LD_PRELOAD": ""}, preexec_fn=_end_with_parent)
        deadline = time.monotonic() + READY_S
        while True:
            found = re.search(r"listening on (\S+)$", log.read_text(), re.MULTILINE)
            if found:
                break
            assert self.process.poll() is None and time.monotonic() < deadline, f"no daemon: {log.read_text()}"
            time.sleep(0.01)
        self.address = found[1]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(END_S)
            self.process = None
        while number == signal.SIGSTOP and "\nState:\tT" not in Path(f"/proc/{self.process.pid}/status").read_text():
            time.sleep(0.0005)

    def stat(self, name: str) -> int:
        """One number of the stats socket."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(str(self.folder / f"{self.address.rpartition(':')[2]}.stats"))
            stats.sendall(b"stats\n")
            text = b""
            while not text.endswith(b"END\n"):
                text += stats.recv(1 << 16)
        found = re.search(rf"^{re.escape(name)} (\d+)$", text.decode(), re.MULTILINE)
        assert found, f"no number {name!r} in stats"
        return int(found[1])

    def remove(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
        shutil.rmtree(self.folder)
