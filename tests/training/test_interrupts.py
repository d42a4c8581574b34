"""The first signal is noted, the second acts as it always did."""

import signal
import threading

import pytest

from digits_jax.training.interrupts import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number):
    before = signal.getsignal(number)
    with stop_on_signals() as request:
        assert request.signal_number is None
        signal.raise_signal(number)
        assert request.signal_number == number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_pythons(capfd):
    with stop_on_signals("last words"):
        signal.raise_signal(signal.SIGINT)
        assert capfd.readouterr().err == ""
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == "last words\n"


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="any"), stop_on_signals():
        raise ValueError("any")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone():
    found = []

    def work():
        with stop_on_signals() as request:
            found.append((request.signal_number, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert found == [(None, signal.default_int_handler)]
