"""Shared by the tests of training."""

from team import team  # noqa: F401 - a fixture
