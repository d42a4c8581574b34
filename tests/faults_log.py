"""What the tests of faults have tried: a JSON line each, in the file that a variable names."""

import json
import os

VARIABLE = "DIGITS_JAX_FAULTS_LOG"


def log_faults(fault, tried, survived, lost=0):
    """Appends a line to the file that ``DIGITS_JAX_FAULTS_LOG`` names; without it does nothing.

    Args:
      fault: what was done, for a table's first column: "mutated config.json".
      tried: how many times.
      survived: how many of them ended as they should.
      lost: how many did not.
    """
    path = os.environ.get(VARIABLE)
    if path:
        line = {"fault": fault, "tried": tried, "survived": survived, "lost": lost}
        line["test"] = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        # One write to the end of a file: the lines of several processes don't mix.
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
