"""Sockets that speak in lines of JSON, and the roll call of the processes of one training."""

import contextlib
import json
import os
import selectors
import socket
import threading
import time

from digits_jax.errors import ConfigError, DigitsError

SEND_SECONDS = 2.0  # A peer that takes nothing for so long is stopped; its silence is judged.
RETRY_SECONDS = 0.2
BUSY_SECONDS = 3.0  # A port may still be held by the run before this one.
MOST_BYTES = 1 << 22  # No message of ours comes near; another program's stream would.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HELLO = "digits_jax 1"


class Line:
    """A connected socket that sends and receives JSON objects, one a line."""

    def __init__(self, connected: socket.socket):
        self.socket = connected
        connected.settimeout(SEND_SECONDS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._sending = threading.Lock()

    def send(self, **message) -> bool:
        """Sends an object; False where the other end is gone or takes nothing."""
        try:
            with self._sending:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[dict]:
        """What has come, where `select` says that something has.

        Raises:
          EOFError: the other end is gone.
          ValueError: it isn't one of us.
        """
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._unread) > MOST_BYTES or not all(isinstance(m, dict) for m in messages):
            raise ValueError("not a line of ours")
        return messages

    def close(self) -> None:
        """Closes the socket; more than once does no harm."""
        with contextlib.suppress(OSError):
            self.socket.close()


def listen(host: str, port: int) -> socket.socket:
    """Listens for the others: on this machine alone where the host is its loopback.

    Raises:
      ConfigError: the port is in use, or not allowed.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if host in LOOPBACK:
                family = socket.AF_INET6 if host == "::1" else socket.AF_INET
                return socket.create_server((host, port), family=family, backlog=1024)
            if socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                )
            return socket.create_server(("", port), backlog=1024)
        except OSError as error:
            if time.monotonic() > until or isinstance(error, PermissionError):
                raise ConfigError(
                    f"--coordinator={host}:{port}: process 0 can't listen on port {port} "
                    f"({_why(error)}): another program, or another "
                    "process 0, has it; give a free port to all processes"
                ) from None
            time.sleep(RETRY_SECONDS)


def call_the_roll(
    listener: socket.socket, count: int, me: dict, until: float
) -> tuple[dict[int, Line], dict[int, dict]]:
    """Process 0 waits for the others to come, and tells them that all are there, or what isn't.

    Args:
      listener: see `listen`; it is closed.
      count: of all processes.
      me: what process 0 says of itself.
      until: by `time.monotonic`, when to stop waiting.

    Returns:
      The line to each of the others, and what each has said of itself.

    Raises:
      ConfigError: some are missing, two have one number, or one expects another count.
    """
    lines, said, strangers = {}, {0: me}, []
    with selectors.DefaultSelector() as selector, listener:
        selector.register(listener, selectors.EVENT_READ)
        problem = None
        while len(said) < count and not problem:
            if time.monotonic() > until:
                missing = ", ".join(str(i) for i in range(count) if i not in said)
                problem = (
                    f"{len(said)} of --num-processes={count} have come to {me['coordinator']} "
                    f"in time; missing: {missing}; it must be this machine's address, and all are "
                    f"to be started within {me['seconds']:g} s, each with its own --process-id"
                )
            for key, _ in selector.select(RETRY_SECONDS):
                if key.fileobj is listener:
                    strangers.append(Line(listener.accept()[0]))
                    selector.register(strangers[-1].socket, selectors.EVENT_READ, strangers[-1])
                    continue
                problem = _hear(key.data, lines, said, count) or problem
                if key.data.socket.fileno() < 0:
                    selector.unregister(key.fileobj)
    others = list(lines.values())
    for line in others if not problem else {*others, *strangers}:
        line.send(**({"end": problem} if problem else {"welcome": me}))
    for line in strangers:
        if problem or line not in others:
            line.close()
    if problem:
        raise ConfigError(problem)
    return lines, said


def _hear(line, lines, said, count):
    """Takes in one who has called; returns what is wrong with it, if something is."""
    try:
        for message in line.receive():
            i = message["id"]
            if message["hello"] != HELLO or not isinstance(i, int):
                raise ValueError
            whose = f"{message['host']}, process id {message['pid']}"
            if message["count"] != count:
                return (
                    f"process {i} ({whose}) was started with --num-processes={message['count']} "
                    f"and process 0 with {count}; give all the same"
                )
            if i in said:
                other = f"{said[i]['host']}, process id {said[i]['pid']}"
                return (
                    f"--process-id={i} was given to two processes ({other}; {whose}); "
                    f"give each its own, 0 to {count - 1}"
                )
            lines[i], said[i] = line, message
    except (EOFError, ValueError, KeyError, TypeError):
        line.close()  # a port scanner, a health check; or one that waits no longer
        for i in [i for i, known in lines.items() if known is line]:
            del lines[i], said[i]
    return None


def answer_the_roll(host: str, port: int, me: dict, until: float) -> tuple[Line, dict]:
    """Another process goes to process 0, and waits until all are there.

    Args:
      host: of process 0.
      port: of process 0.
      me: what this process says of itself.
      until: by `time.monotonic`, when to stop trying.

    Returns:
      The line to process 0, and what that has said of itself.

    Raises:
      ConfigError: nobody is there, or process 0 says what is wrong.
    """
    seen = "nobody answers"
    while time.monotonic() < until:
        try:
            line = Line(socket.create_connection((host, port), timeout=SEND_SECONDS))
        except OSError as error:
            seen = f"nobody answers there: {_why(error)}"
            time.sleep(RETRY_SECONDS)
            continue
        try:
            welcome = _wait_for_welcome(line, me, until)
            if welcome:
                return line, welcome
            seen = "process 0 is there but doesn't say that all have come"
        except DigitsError:  # which is a ValueError
            line.close()
            raise
        except EOFError:
            seen = "what answers there leaves at once"
        except (ValueError, KeyError, TypeError):
            seen = "what answers there is another program, or a run that has begun already"
        line.close()
        time.sleep(RETRY_SECONDS)
    raise ConfigError(
        f"--coordinator={host}:{port}: process {me['id']} can't join process 0 ({seen}); start "
        f"all processes within {me['seconds']:g} s, with the address of process 0's machine"
    )


def _wait_for_welcome(line, me, until):
    line.send(**me)
    with selectors.DefaultSelector() as selector:
        selector.register(line.socket, selectors.EVENT_READ)
        # Process 0 may have begun to wait later, and answers even when it gives up.
        while time.monotonic() < until + SEND_SECONDS:
            if not selector.select(RETRY_SECONDS):
                continue
            for message in line.receive():
                if "end" in message:
                    raise ConfigError(str(message["end"]))
                return {name: str(message["welcome"][name]) for name in ("host", "pid")}
    return None


def _why(error):
    if isinstance(error, TimeoutError) or not error.errno:
        return str(error) or "timed out"
    # A host's name that isn't known has numbers of its own.
    text = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
    return text.lower()


def introduce(index: int, count: int, address: str, seconds: float) -> dict:
    """What a process says of itself when the roll is called."""
    return {
        "hello": HELLO,
        "id": index,
        "count": count,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "coordinator": address,
        "seconds": seconds,
    }
