"""Every reader, given thousands of damaged files: a clear error or a right result."""

import faulthandler
import os

import pytest
from faults_log import VARIABLE, log_faults
from harness import fuzz
from readers import READERS

QUICK, SOME, ALL = 150, 2_000, 10_000
# Where time is short, as in CI, what is read from anywhere but a run or a data set gets fewer;
# `python -m experiments.reliability`, which asks for a log, gives all to all.
PATIENT = VARIABLE in os.environ
ALWAYS_ALL = (
    "checkpoint",
    "manifest",
    "config",
    "results",
    "metrics.jsonl",
    "model",
    "IDX",
    "cache",
)


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
def test_thousands_of_damaged_inputs(name, tmp_path):
    always = name.startswith(ALWAYS_ALL) and not name.endswith("kept")
    check(name, ALL if PATIENT or always else SOME, tmp_path)
