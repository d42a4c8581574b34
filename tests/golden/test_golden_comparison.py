"""Comparisons of made-up predictions give the numbers that they gave before the redesign."""

import pytest
from machine import recorded
from records import COMPARISONS, comparison

RELATIVE, ABSOLUTE = 1e-5, 1e-9


def check(found, stored, path):
    """Compares JSON values: numbers nearly, all else exactly."""
    if isinstance(stored, dict):
        assert found.keys() == stored.keys(), path
        for key in stored:
            check(found[key], stored[key], f"{path}.{key}")
    elif isinstance(stored, list):
        assert len(found) == len(stored), path
        for index, (one, other) in enumerate(zip(found, stored, strict=True)):
            check(one, other, f"{path}[{index}]")
    elif isinstance(stored, float):
        assert found == pytest.approx(stored, rel=RELATIVE, abs=ABSOLUTE), path
    else:
        assert found == stored, path


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(name):
    found, stored = comparison(name), recorded("comparison.json")[name]
    check(found["overlap"], stored["overlap"], "overlap")
    # The report may be worded in another way and show more: the numbers are still there.
    shown = {_value(number) for number in found["report"]}
    assert [number for number in stored["report"] if _value(number) not in shown] == []


def _value(number: str) -> float:
    """A number of the report, whether or not it is written with a percent sign or zeros."""
    return float(number.replace(",", "").rstrip("%"))
