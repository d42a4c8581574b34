"""Stand-in until the real one lands."""

import contextlib


@contextlib.contextmanager
def initialize(coordinator=None, num_processes=None, process_id=None):
    yield


def max_over_processes(flag):
    return flag


def broadcast_text(text):
    return text


def assert_same(values):
    pass


def barrier(name):
    pass


def main_process_first(make):
    return make()


def arm_watchdog(seconds):
    pass


def disarm_watchdog():
    pass
