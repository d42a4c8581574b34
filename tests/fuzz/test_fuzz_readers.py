"""Every reader, given thousands of damaged files: a clear error or a right result."""

import faulthandler

import pytest
from faults_log import log_faults
from harness import fuzz
from readers import READERS

QUICK, ALL = 150, 10_000


def check(name, count, folder):
    # A hang in C, where no signal is looked at, ends the session with a trace.
    faulthandler.dump_traceback_later(900, exit=True)
    try:
        tried, wrong = fuzz(name, READERS[name], count, folder)
    finally:
        faulthandler.cancel_dump_traceback_later()
    log_faults(f"mutated {name}", tried, tried - len(wrong), len(wrong))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("name", READERS)
def test_some_damaged_inputs(name, tmp_path):
    check(name, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_ten_thousand_damaged_inputs(name, tmp_path):
    check(name, ALL, tmp_path)
