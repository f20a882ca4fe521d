"""SIGTERM and Ctrl-C: training saves and stops where nothing is lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

AT_ONCE = 128 + signal.SIGINT  # The exit code, as shells have it.
_GRACE = 1.0  # Seconds for Python to raise what a second Ctrl-C asks for.


class Preempted(BaseException):
    """SIGTERM or Ctrl-C came, by which name the argument tells.

    Nothing is lost by stopping here, unless it is the second Ctrl-C.

    Attributes:
      at_once: whether it is.
    """

    at_once = False


class Sigterm:
    """SIGTERM, with which a machine says that it is about to go away, or Ctrl-C.

    Within this context either raises :class:`Preempted`; so does a second Ctrl-C where
    the first is held. Where it can't, as compiled code runs, the second ends the
    process.

    Attributes:
      received: whether one came.
    """

    def __init__(self) -> None:
        self.received = False
        self._deferred = False
        self._name = ""
        self._raised = threading.Event()

    def __enter__(self) -> "Sigterm":
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        # Python calls a handler when compiled code returns, but writes here at once.
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, args=(read,), daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._raised.set()
        os.close(self._write)
        self._watcher.join()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the signal is remembered alone, and raises at the end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:
            raise Preempted(self._name)

    def _handle(self, number: int, _: object) -> None:
        again = number == signal.SIGINT and self._name == "Ctrl-C"
        self.received = True
        self._name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        stop = Preempted(self._name)
        stop.at_once = again and self._deferred
        if again or not self._deferred:
            self._raised.set()
            raise stop

    def _watch(self, read: int) -> None:
        """Answers Ctrl-C whatever runs meanwhile."""
        count = 0
        with open(read, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] != signal.SIGINT:
                    continue
                count += 1
                if count == 1 and self._deferred:
                    print(
                        "\nCtrl-C: saves and stops when the steps at hand are done;"
                        " once more stops at once.",
                        file=sys.stderr,
                    )
                elif count > 1 and not self._raised.wait(_GRACE):
                    print("Stopped at once by Ctrl-C.", file=sys.stderr, flush=True)
                    os._exit(AT_ONCE)
