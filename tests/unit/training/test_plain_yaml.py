"""Configurations as YAML: plain values, whatever their author intended, in little time and memory."""

import os
import time

import pytest

from weightshare.errors import ConfigError
from weightshare.training.plain_yaml import LARGEST, parse_yaml
from weightshare.training.recipe import read_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 60))
MERGED = "a: &a {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1 or ''}, *a{n - 1 or ''}]}}\n" for n in range(1, 60))


def test_anchors_and_merged_keys_are_known():
    text = "base: &base {lr: 0.1, epochs: 2}\ntrain: {<<: *base, epochs: 3}\nlist: [*base, *base]\n"
    data = parse_yaml(text, "here")
    assert data["train"] == {"lr": 0.1, "epochs": 3}
    assert data["list"] == [data["base"]] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 100,000 values"),
        (MERGED, "more than 100,000 values"),
        ("a: &a [*a]", "an alias lies inside"),
        ("a: &a {b: *a}", "an alias lies inside"),
        ("[" * 50_000, "more than 100 brackets"),
        ("- " * 50_000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is there twice, in line 3"),
        ("a: {b: 1, b: 1}", "the key 'b' is there twice"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !include /etc/passwd", "could not determine a constructor"),
        ("a: 2024-13-45", "month must be in"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 characters"),
        ("a: " + "x" * LARGEST, "more than 262,144 characters"),
        ("a: *nobody", "undefined alias"),
        ("\0", "special characters"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_refused(text, message):
    began = time.process_time()
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "here")
    assert "Cannot read the configuration here" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.process_time() - began < 10


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "missing"):
        with pytest.raises(ConfigError, match="Cannot read the configuration"):
            read_yaml(path)
