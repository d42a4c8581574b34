"""Fixtures of the page's tests."""

from paged import browser, cnn, open_page  # noqa: F401 - fixtures
