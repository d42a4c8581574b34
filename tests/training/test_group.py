"""A group's parts, in this process."""

import socket
import threading

import pytest

from digits_jax import DigitsError
from digits_jax.training.group import Group
from digits_jax.training.lines import Line
from digits_jax.training.peers import Peer, find_lost, find_stalled
from digits_jax.training.processes import join


def test_one_process_pays_nothing(monkeypatch):
    monkeypatch.setattr("socket.socket", None)
    with join() as group:
        group.note("training", 1)
        group.agree({"seed": 1})
        group.barrier("here")
        assert group.gather("all", (1, 2)) == [[1, 2]]
        assert group.first_says("name", "run") == "run"
    with pytest.raises(ZeroDivisionError), join(num_processes=1):
        _ = 1 / 0


def test_groups_speak_in_json():
    """Two groups in one process, over a pair of sockets."""
    ends = tcp_pair()
    groups = [Group(i, 2, {1 - i: Line(end)}, {1 - i: "here"}) for i, end in enumerate(ends)]
    said = [None, None]

    def speak(i):
        said[i] = groups[i].gather("numbers", {"a": (1, i)})
        groups[i].finish()
        groups[i].close()

    threads = [threading.Thread(target=speak, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert said == [[{"a": [1, 0]}, {"a": [1, 1]}]] * 2


def test_who_hangs_up_at_the_end_has_not_died(monkeypatch):
    """Where process 0 comes last, and gets on only after the other has left."""
    ends, left, asked = tcp_pair(), [], threading.Event()
    monkeypatch.setattr(Group, "_leave", lambda self, line: left.append(line))  # it would end us
    groups = [Group(i, 2, {1 - i: Line(end)}, {1 - i: "here"}) for i, end in enumerate(ends)]
    hear, tell = groups[0]._hear_said, groups[0]._peers[1].line.send

    def hear_said(index, key, value):
        hear(index, key, value)
        asked.set()

    def tell_slowly(**message):
        told = tell(**message)
        if "all" in message:
            groups[0]._thread.join(30)  # until the watch has seen that the other hung up
        return told

    monkeypatch.setattr(groups[0], "_hear_said", hear_said)
    monkeypatch.setattr(groups[0]._peers[1].line, "send", tell_slowly)
    other = threading.Thread(target=lambda: (groups[1].finish(), groups[1].close()))
    other.start()
    assert asked.wait(30)
    groups[0].finish()
    assert not groups[0]._thread.is_alive()
    groups[0].close()
    other.join(30)
    assert (groups[0].verdict, groups[1].verdict, left) == (None, None, [])


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_a_line_that_is_not_ours():
    here, there = tcp_pair()
    line = Line(here)
    there.sendall(b'{"a": 1}\n{"b"')
    assert line.receive() == [{"a": 1}]
    there.sendall(b": 2}\nno json\n")
    with pytest.raises(ValueError, match="Expecting value"):
        line.receive()
    there.close()
    with pytest.raises(EOFError):
        line.receive()
    assert line.send(x=1) in (True, False)
    line.close()
    assert not line.send(x=1)
    line.close()


def seen(step, since, *, waits=False):
    return Peer(None, "here", 100.0, doing="training", step=step, since=since, waits=waits)


@pytest.mark.parametrize(
    ("peers", "blamed"),
    [
        ({0: seen(7, 90.0, waits=True), 1: seen(7, 90.0)}, 1),
        ({0: seen(8, 90.0, waits=True), 1: seen(7, 90.0, waits=True)}, 1),
        ({0: seen(7, 90.0), 1: seen(7, 99.0)}, 0),
        ({0: seen(7, 90.0, waits=True), 1: seen(7, 99.0)}, None),
        ({0: seen(7, 98.0), 1: seen(7, 97.0)}, None),
        ({0: seen(7, 99.0), 1: Peer(None, "here", 0.0)}, None),
    ],
)
def test_who_has_stalled(peers, blamed):
    found = find_stalled(peers, 100.0, 5.0)
    assert found is None if blamed is None else found.startswith(f"process {blamed} has stalled")


def test_who_is_lost():
    assert find_lost({1: seen(1, 90.0)}, 101.0, 5.0) is None
    assert "silent for 6 s" in find_lost({1: seen(1, 90.0)}, 106.0, 5.0)
    assert "has gone" in find_lost({1: Peer(None, "here", 100.0, gone=True)}, 100.0, 5.0)


def test_joining_after_jax_was_joined(monkeypatch):
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    with pytest.raises(DigitsError, match="JAX can't join twice"), join("127.0.0.1:1", 2, 1):
        pass
