"""The page as a file; test_page_browser.py runs it."""

import dataclasses
import json
import os
import re
from base64 import b64decode

import numpy as np
import pytest
from networks import constant_network, random_network

from digits_jax.deploy.network import combine
from digits_jax.deploy.page import to_html, write_page
from digits_jax.errors import DigitsError


def linear(name="linear", **changes):
    return dataclasses.replace(random_network("linear"), name=name, **changes)


def data_of(html):
    """The networks that a page carries."""
    return json.loads(re.search(r'id="networks">(.*?)</script>', html, re.S)[1])


def test_the_page_is_one_file_and_the_same_networks_give_the_same_bytes(tmp_path):
    path = tmp_path / "digits.html"
    for _ in range(2):
        assert write_page([linear(), random_network("linear", 1)], path) == path.stat().st_size
        assert os.listdir(tmp_path) == ["digits.html"]
        text = path.read_text(encoding="utf-8")
        assert text == to_html([linear(), random_network("linear", 1)])
    assert text.startswith("<!DOCTYPE html>")


def test_the_page_loads_nothing():
    # Base64 of arrays that aren't constant, as the rejector's are, can hold a //.
    html = to_html([constant_network(1, "one")])
    html = re.sub(r'(?<="kernel":")[\w+/=]*', "", html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bfetch\(|XMLHttp|\beval\(", html)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_carries_the_parameters_and_the_results():
    run = {"dataset": "mnist", "test_accuracy": 0.99, "test_count": 10_000}
    network = linear(facts={"runs": [run]})
    both = combine([linear("a"), random_network("linear", 1)])
    carried, of_both = data_of(to_html([network, both]))
    text = carried["members"][0][1]["arrays"]["kernel"]
    kernel = np.frombuffer(b64decode(text), "<f4").reshape(784, 10)
    expected = network.members[0].variables["params"]["logits"]["kernel"]
    np.testing.assert_array_equal(kernel, expected)
    assert carried["parameters"] == 7850
    assert carried["runs"][0]["test_accuracy"] == 0.99
    assert len(of_both["members"]) == 2


def test_names_are_escaped_in_the_page():
    name = 'a</script><script>alert("1")</script><!-- & \u2028'
    html = to_html([linear(name)])
    assert html.count("<script") == 3  # networks, the rejector, the code
    assert "alert(" not in html.replace("alert(\\", "")
    assert data_of(html)[0]["name"] == name


def test_networks_that_fit_on_no_page_are_refused(tmp_path):
    path = tmp_path / "digits.html"
    with pytest.raises(DigitsError, match=r"^b has the classes x y, a has 0 1 .* needs networks"):
        write_page([linear("a"), linear("b", class_names=("x", "y"))], path)
    for count in (0, 5):
        with pytest.raises(DigitsError, match=f"shows 1 to 4 networks, not {count}"):
            write_page([linear()] * count, path)
    assert not path.exists()


@pytest.mark.parametrize("where", ["missing/digits.html", "file/digits.html", "."])
def test_a_path_that_cannot_be_written_is_refused(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(DigitsError, match="can't be written"):
        write_page([linear()], tmp_path / where)
    assert os.listdir(tmp_path) == ["file"]


def luminance(colour):
    """Relative luminance of "#rrggbb" or "#rgb", as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme):
    """Text 4.5 to 1 (AA); bars, rings and borders that mean something 3 to 1."""
    blocks = re.findall(r":root \{(.*?)\}", to_html([linear()]), re.S)
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", blocks[scheme]))
    for text in ("text", "muted", "warn"):
        assert all(contrast(colours[text], colours[on]) >= 4.5 for on in ("bg", "card", "paper"))
    for mark in ("a", "b", "c", "d", "edge", "good"):
        assert contrast(colours[mark], colours["card"]) >= 3, mark
