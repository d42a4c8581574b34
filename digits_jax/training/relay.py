"""A thread between JAX's client and its coordinator, so that the loss of one isn't a crash.

JAX's runtime ends a process, with a dump of its C++ stack, at the moment at which its connection
to process 0 closes, and nothing that Python can pass to it prevents that. So it is given an
address on its own machine. What stands there passes everything on; when the other side closes,
it closes nothing, and leaves it to `digits_jax.training.processes` to say who has gone.
"""

import contextlib
import socket
import threading
import time

RETRY_SECONDS = 0.1


def start_relay(host: str, port: int, until: float) -> int:
    """Passes on to an address whatever connects to a new port of this machine's loopback.

    Args:
      host: where to.
      port: where to.
      until: by `time.monotonic`; till then, an address where nobody listens is tried again.

    Returns:
      The new port. It is served until the process ends.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, host, port, until), daemon=True).start()
    return listener.getsockname()[1]


def _serve(listener, host, port, until):
    while True:
        near = listener.accept()[0]
        far = _connect(host, port, until)
        if far is None:
            near.close()
            continue
        for connected in (near, far):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_pump, args=(near, far, True), daemon=True).start()
        threading.Thread(target=_pump, args=(far, near, False), daemon=True).start()


def _connect(host, port, until):
    while True:
        try:
            connected = socket.create_connection((host, port), timeout=2.0)
            connected.settimeout(None)
            return connected
        except OSError:
            if time.monotonic() > until:
                return None
            time.sleep(RETRY_SECONDS)


def _pump(source, sink, close_after):
    """Copies until the source ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    if close_after:
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
