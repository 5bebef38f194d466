"""The connection to the store, which may be away, slow or refuse us: nothing here lets the engine wait."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import kvfuse
from vllm.logger import init_logger

from .settings import Settings

logger = init_logger("vllm.kvfuse")  # under vLLM's own logger, whose handlers and level it has

_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_REFUSED_RETRY_S = 30.0  # the space is another one's: until somebody drops it


class Store:
    """A client and one space of it, opened in the background and kept open.

    `on_open(client)` runs in the background thread before the space is ready for the first time.
    Threads: the engine's own thread, and one in the background that lives until the space is open.
    """

    def __init__(self, settings: Settings, name: str, layout: kvfuse.Layout, on_open: Callable[[kvfuse.Client], None] | None = None) -> None:
        self._settings = settings
        self._name = name
        self._layout = layout
        self._on_open = on_open
        self._client: kvfuse.Client | None = None
        self._space: kvfuse.Space | None = None
        self._paused_until = self._puts_paused_until = 0.0
        self._reopen_from = 0.0
        self._closing = threading.Event()
        self._said: set[str] = set()
        self._thread = self._start()

    # ---- for the engine's thread: never waits ----

    def space(self, is_for_puts: bool = False) -> kvfuse.Space | None:
        """The space, if it can be used right now. Puts are made in a pause, too, unless they themselves timed out: nobody waits for them."""
        space, client = self._space, self._client
        if space is None or client is None or time.monotonic() < (self._puts_paused_until if is_for_puts else self._paused_until):
            return None
        if not client.connected:
            self.say("lost", "kvfuse: the store at %s is away; prompts are computed", self._settings.address)
            return None
        if "lost" in self._said:
            self._said.clear()
            logger.info("kvfuse: the store at %s is back", self._settings.address)
        return space

    def seen(self, result: kvfuse.Result, is_put: bool = False) -> None:
        """Told how each request ended: a store that is slow is left alone for a while, one that has lost the space gets it again."""
        if result.status is kvfuse.Status.ERR_TIMEOUT or kvfuse.Status.ERR_TIMEOUT in result.statuses:
            self.timed_out(is_put)
        elif result.status is kvfuse.Status.ERR_NOT_FOUND:  # all of it: so it may be the space
            self._reopen()
        elif result.status >= 0:
            self._said.discard("slow")

    def timed_out(self, is_put: bool = False) -> None:
        self._paused_until = time.monotonic() + self._settings.pause
        if is_put:
            self._puts_paused_until = self._paused_until
        self.say("slow", "kvfuse: the store at %s does not answer in time; prompts are computed", self._settings.address)

    def _reopen(self) -> None:
        """The space may be gone (somebody dropped it): opens it again, in the background, which harms nothing if it is there."""
        now = time.monotonic()
        if not self._thread.is_alive() and now >= self._reopen_from:
            self._reopen_from = now + self._settings.pause
            self._thread = self._start()

    def say(self, what: str, text: str, *arguments: object) -> None:
        """Warns, once until the store is back."""
        if what not in self._said:
            self._said.add(what)
            logger.warning(text, *arguments)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(self._settings.connect_timeout + 1)
        client, self._client, self._space = self._client, None, None
        if client is not None and not self._thread.is_alive():
            client.close()

    # ---- in the background ----

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._open, name="kvfuse-open", daemon=True)
        thread.start()
        return thread

    def _open(self) -> None:
        tries = 0
        while not self._closing.is_set():
            wait_s = _RETRY_S[min(tries, len(_RETRY_S) - 1)]
            tries += 1
            try:
                self._try_open()
                return
            except (kvfuse.LayoutMismatch, kvfuse.PolicyMismatch) as error:
                wait_s = _REFUSED_RETRY_S
                self._space = None
                self.say("refused", "kvfuse: the space %r is not ours, so prompts are computed: %s", self._name, error)
            except kvfuse.Error as error:
                if isinstance(error, (ConnectionError, TimeoutError)):
                    self.say("away", "kvfuse: no store at %s yet, so prompts are computed: %s", self._settings.address, error)
                else:
                    self.say("away", "kvfuse: the store at %s does not open the space %r, so prompts are computed: %s", self._settings.address,
                             self._name, error)
            except Exception:
                logger.exception("kvfuse: opening the store failed; prompts are computed")
                return
            self._closing.wait(wait_s)

    def _try_open(self) -> None:
        if self._client is None:
            s = self._settings
            client = kvfuse.Client(s.address, name="vllm", transport=s.transport, put_mode=s.put_mode, ucx_tls=s.ucx_tls,
                                   unit_cache_bytes=s.unit_cache_bytes, decoded_bytes=s.decoded_bytes, connect_timeout=s.connect_timeout,
                                   request_timeout=s.load_timeout)
            if self._on_open is not None:
                self._on_open(client)
            self._client = client
        is_again = self._space is not None
        self._space = self._client.space(self._name, self._layout, self._settings.policy)
        self._said -= {"refused", "away"}
        if not is_again:
            self._said.clear()
        logger.log(logging.DEBUG if is_again else logging.INFO, "kvfuse: space %r of the store at %s is open (%s)", self._name,
                   self._settings.address, self._settings.policy)
