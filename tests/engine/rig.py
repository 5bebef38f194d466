"""A real daemon and real engines, for the tests of this folder."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("KVFUSE_BUILD", os.path.join(ROOT, "build"))
MODEL = os.environ.get("ENGINE_MODEL", os.path.join(BUILD, "engine-model"))
BLOCK = 32


def _computes_bf16() -> bool:
    """Whether the processor does: on others the model runs many times slower in bf16 than in fp32."""
    try:
        flags = set(open("/proc/cpuinfo").read().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


IS_SLOW = not _computes_bf16()  # then tests take fewer and shorter prompts: 1,500 tokens take 8 seconds rather than 1
DTYPE = "float32" if IS_SLOW else "bfloat16"
LONG = 700 if IS_SLOW else 1500  # tokens of a long prompt where no time is taken
# of the connector, where a test is not about time: what is in the store is found there also while others use the machine
PATIENCE = {"match_timeout": 5.0, "load_timeout": 30.0, "save_timeout": 60.0}


class Daemon:
    """kvfused on a free port, which it keeps over restarts."""

    def __init__(self, *options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kvf-engine-")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % s.getsockname()[1]
        self.start()

    def start(self) -> None:
        log = os.path.join(self._folder.name, "log")
        with open(log, "wb") as file:
            self._process = subprocess.Popen(
                [os.path.join(BUILD, "daemon", "kvfused"), "--address", self.address, "--runtime-dir", self._folder.name,
                 "--host-bytes", "4GiB" if IS_SLOW else "2GiB", *self._options], stderr=file)
        for _ in range(200):
            if "listening on" in open(log).read():
                return
            time.sleep(0.05)
        raise RuntimeError(f"the daemon does not start: {open(log).read()}")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stats(self) -> dict:
        path = os.path.join(self._folder.name, self.address.split(":")[1] + ".stats")
        return json.loads(subprocess.run([os.path.join(BUILD, "client", "kvfuse"), "stats", "--json", "--socket", path],
                                         capture_output=True, check=True).stdout)

    def settle(self) -> dict:
        """Waits until everything that was put is coded. The figures of fused spaces."""
        for _ in range(600):
            fusion = self.stats()["fusion"]
            if not fusion["blocks_waiting"] and not fusion["spaces_learning"]:
                return fusion
            time.sleep(0.1)
        raise RuntimeError(f"the daemon does not get done: {fusion}")

    def wait_for_blocks(self, count: int) -> int:
        """Waits until it has had `count` blocks stored, for at most 20 seconds. How many it has had."""
        for _ in range(400):
            stored = self.stats()["blocks_stored"]
            if stored >= count:
                break
            time.sleep(0.05)
        return stored

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
        self._folder.cleanup()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Engine:
    """vLLM in a child process, or, as by default, in three: front end, engine core with the scheduler, and worker (`processes`; slow to start).

    store: kv_connector_extra_config; None: no connector. patient: its timeouts are PATIENCE, not the defaults. options: of vllm.LLM.
    """

    def __init__(self, store: dict | None = None, role: str = "kv_both", processes: bool = False, patient: bool = True, **options: object) -> None:
        everything: dict[str, object] = dict(
            model=MODEL, dtype=DTYPE, block_size=BLOCK, enforce_eager=True, max_model_len=2048, max_num_batched_tokens=2048,
            max_num_seqs=8, disable_log_stats=True, seed=0, enable_prefix_caching=True)
        if store is not None:
            everything["kv_transfer_config"] = dict(kv_connector="KvfuseConnector", kv_connector_module_path="kvfuse.vllm", kv_role=role,
                                                    kv_connector_extra_config={**(PATIENCE if patient else {}), **store})
        everything.update(options)
        self._log = tempfile.NamedTemporaryFile("w+", prefix="kvf-engine-", suffix=".log")
        reading, writing = os.pipe()
        environment = dict(os.environ, VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="INFO", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1",
                           DO_NOT_TRACK="1", KVF_LOG="error", OMP_WAIT_POLICY="PASSIVE",
                           VLLM_ENABLE_V1_MULTIPROCESSING="1" if processes else "0")
        self._process = subprocess.Popen([sys.executable, os.path.join(HERE, "engine.py"), str(writing)], stdin=subprocess.PIPE, text=True,
                                         stdout=self._log, stderr=self._log, pass_fds=[writing], env=environment, start_new_session=True)
        os.close(writing)
        self._answers = os.fdopen(reading)
        try:
            self.ready_seconds = self._ask({"options": everything})["ready"]
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        return open(self._log.name).read()

    def _ask(self, ask: dict) -> dict:
        assert self._process.stdin is not None
        try:
            print(json.dumps(ask), file=self._process.stdin, flush=True)
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the engine died:\n{self.log[-6000:]}")
        answer = json.loads(line)
        self._preempted = answer.get("preempted", 0)
        return answer

    def generate(self, prompts: list[list[int]], max_tokens: int = 16, **more: object) -> list[dict]:
        return self._ask({"prompts": prompts, "max_tokens": max_tokens, **more})["outputs"]

    def timed(self, prompts: list[list[int]], max_tokens: int = 16, **more: object) -> float:
        return self._ask({"prompts": prompts, "max_tokens": max_tokens, **more})["seconds"]

    def distributions(self, prompts: list[list[int]]) -> tuple[np.ndarray, list[int]]:
        """Log-probabilities of the next token, [prompt, vocabulary], and how many tokens of each prompt were not computed."""
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            cached = self._ask({"prompts": prompts, "distributions": file.name})["cached"]
            return np.load(file.name), cached

    def abort(self, prompts: list[list[int]], after: int) -> None:
        """Begins them and aborts them after so many steps; nothing of them is left then."""
        assert not self._ask({"prompts": prompts, "abort_after": after})["left"]

    def gaps(self, prompts: list[list[int]], outputs: list[list[int]]) -> list[float]:
        """Of each token of `outputs`, computed in one go: how much more likely the likeliest token is, in nats. 0: it is that one."""
        return self._ask({"prompts": prompts, "gaps": outputs})["gaps"]

    def reset(self, connector: bool = False) -> None:
        """Empties vLLM's own prefix cache. connector: as after a change of weights, so that the connector is told, too."""
        assert self._ask({"reset": True, "connector": connector})["reset"]

    def delete_at_load(self, count: int) -> None:
        """The last `count` blocks of the next get are gone from the store when it begins, as if they had been evicted since the match."""
        self._ask({"at_load": {"delete": count}})

    def kill_at_load(self, daemon: Daemon) -> None:
        """The daemon is killed when the next get is under way."""
        assert daemon._process is not None
        self._ask({"at_load": {"signal": [daemon._process.pid, signal.SIGKILL]}})

    def break_step(self, prompt: list[int], layer: int) -> None:
        """A step for this prompt in which a layer raises. The engine is of no use afterwards."""
        self._ask({"raise_in": layer})
        assert "raised" in self._ask({"prompts": [prompt], "max_tokens": 1})

    @property
    def preempted(self) -> int:
        """How many requests have been, in an engine of one process."""
        return self._preempted

    def said(self, text: str) -> int:
        """How many lines of its log have `text`."""
        return sum(text in line for line in self.log.splitlines())

    @property
    def warnings(self) -> list[str]:
        """The connector's."""
        return [line for line in self.log.splitlines() if "WARNING" in line and "kvfuse" in line]

    def close(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):  # whatever it has left, with the processes that it made
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around what is timed: holds the file ENGINE_QUIET_LOCK, if there is one, so that other runs on the machine keep still."""
    path = os.environ.get("ENGINE_QUIET_LOCK")
    if path is None:
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tokens_of(outputs: list[dict]) -> list[list[int]]:
    return [output["tokens"] for output in outputs]


def cached_of(outputs: list[dict]) -> list[int]:
    return [output["cached"] for output in outputs]


_whole: dict[tuple[int, ...], list[int]] = {}


def _in_one_go(plain: Engine, prompt: list[int], count: int) -> list[int]:
    """The tokens that follow when all of the prompt is computed in one step. Kept: there is one `plain`."""
    tokens = _whole.get(tuple(prompt), [])
    if len(tokens) < count:
        tokens = _whole[tuple(prompt)] = plain.generate([prompt], count, salt=f"whole {time.monotonic_ns()}")[0]["tokens"]
    return tokens[:count]


def assert_vllms_own(plain: Engine, prompts: list[list[int]], outputs: list[dict]) -> int:
    """Asserts that each output is one that vLLM gives by itself. How many are those of a prompt computed in one go.

    What is computed on top of a cached beginning has other sums in the last bit than what is computed in one go, and now and then another
    greedy token, by vLLM's own cache as well. So where part of a prompt came, one of vLLM's outputs with some of its blocks cached is right.
    """
    equal = 0
    for prompt, output in zip(prompts, outputs):
        tokens = _in_one_go(plain, prompt, len(output["tokens"]))
        if output["tokens"] == tokens:
            equal += 1
            continue
        for blocks in range(1, (len(prompt) - 1) // BLOCK + 1):
            salt = f"{blocks} {time.monotonic_ns()}"
            plain.generate([prompt[:blocks * BLOCK + 1]], 1, salt=salt)
            got = plain.generate([prompt], len(tokens), salt=salt)[0]
            if got["tokens"] == output["tokens"]:
                break
        else:
            raise AssertionError(f"{output['tokens']} is none of vLLM's own outputs; in one go it gives {tokens}")
    return equal


# ---- prompts, of real text ----

_documents: list[list[int]] = []


def tokenize(text: str) -> list[int]:
    from tokenizers import Tokenizer

    global _tokenizer
    try:
        tokenizer = _tokenizer
    except NameError:
        tokenizer = _tokenizer = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    return tokenizer.encode(text, add_special_tokens=False).ids


def documents(length: int) -> list[list[int]]:
    """Licences and modules of Python's library, each of at least `length` tokens."""
    if not _documents:
        files = sorted(glob.glob("/usr/share/common-licenses/*") + glob.glob(os.path.join(os.path.dirname(os.__file__), "*.py")))
        files = [f for f in files if os.path.isfile(f) and not os.path.islink(f) and 12000 < os.path.getsize(f) < 60000]
        random.Random(7).shuffle(files)
        _documents.extend(tokenize(open(f, errors="ignore").read()) for f in files[:40])
    return [d for d in _documents if len(d) >= length]


def header(number: int) -> list[int]:
    rng = random.Random(number)
    return tokenize(f"Ticket {rng.randint(1000, 99999)} opened by customer {rng.randint(1, 10**6)} on 2026-{rng.randint(1, 12)}-"
                    f"{rng.randint(1, 28)}{' urgent' * rng.randint(0, 9)}. Answer from the manual below.\n")
