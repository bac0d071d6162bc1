"""What type a setting has, what may stand for it, and what is said of anything else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dd.command import Parser
from dd.config.methods import parse, parse_protocol
from dd.config.recipes import resolve
from dd.config.settings import (
    NUMBER,
    add_options,
    as_type,
    assumed,
    build,
    declared,
    from_text,
    given_settings,
    setting,
    shared,
    type_of,
)
from dd.errors import DDError


@dataclass(frozen=True)
class Settings:
    epochs: int = setting("epochs", at_least=0)
    lr_net: float = setting("learning rate", above=0)
    name: str = setting("a name", default="x")


def test_settings_of_which_only_defaults_are_known():
    """Any names: those of a plug-in's file may be words that no class may have as a field."""
    found = assumed({"lambda": 0.5, "class": 3, "mode": "x"}, "of a plug-in")
    seen = {name: (f.name, type_of(f), f.default, text) for name, (f, text) in found.items()}
    assert seen == {
        "lambda": ("lambda", float, 0.5, "of a plug-in"),
        "class": ("class", NUMBER, 3, "of a plug-in"),
        "mode": ("mode", str, "x", "of a plug-in"),
    }


def test_an_option_for_two_settings_is_text_if_their_types_differ():
    whole, other = (assumed({"steps": value}, "")["steps"][0] for value in (3, 0.5))
    assert shared(whole, whole) is whole
    both = shared(whole, other)
    assert (both.name, type_of(both)) == ("steps", str)
    word, number = (assumed({"lambda": value}, "")["lambda"][0] for value in ("a", 1))
    assert (shared(word, number).name, type_of(shared(word, number))) == ("lambda", str)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("3.0", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 0.001),
        ("3", NUMBER, 3),
        ("0.5", NUMBER, 0.5),
        ("3", str, "3"),
    ],
)
def test_text_is_read_as_the_type_of_the_setting(text, kind, value):
    found = from_text("x", text, kind)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (1.5, int, "x is 1.5, it must be a whole number"),
        (1.0, int, "x is 1.0, it must be a whole number"),
        ("1", int, "x is '1', it must be a whole number"),
        ("1", float, "x is '1', it must be a number"),
        (True, int, "x is True, it must be a whole number"),
        (True, float, "x is True, it must be a number"),
        (None, NUMBER, "x is None, it must be a number"),
        (1, str, "x is 1, it must be text"),
        (float("nan"), float, "x is nan, it must be a number that float32 can hold"),
        (-1e39, NUMBER, "x is -1e+39, it must be a number that float32 can hold"),
        (10**400, float, "it must be a number that float32 can hold"),
    ],
)
def test_a_value_of_another_type_is_refused(value, kind, said):
    with pytest.raises(DDError) as error:
        as_type("x", value, kind)
    assert said in str(error.value)


def test_whole_numbers_stand_for_any():
    found = as_type("x", 3, float)
    assert found == 3.0 and type(found) is float
    assert as_type("x", 0.5, NUMBER) == 0.5


def options(*words):
    parser = Parser()
    add_options(parser, declared(Settings))
    return vars(parser.parse_args(words))


def test_options_are_those_declared_and_only_those_given_count():
    found = options("--lr-net", "2", "--epochs", "3.0")
    assert found == {"lr_net": 2.0, "epochs": 3} and type(found["epochs"]) is int
    assert given_settings(declared(Settings), {**found, "out": "file"}) == found
    assert build(Settings, found, "test") == Settings(epochs=3, lr_net=2.0)


def test_every_way_in_says_the_same_of_a_wrong_value():
    with pytest.raises(DDError, match=r"^--epochs is '1.5x', it must be a whole number$"):
        options("--epochs", "1.5x")
    with pytest.raises(DDError, match=r"^--epochs is 1.5, it must be a whole number$"):
        options("--epochs", "1.5")
    with pytest.raises(DDError, match=r"^test: epochs is 1.5, it must be a whole number$"):
        build(Settings, {"epochs": 1.5, "lr_net": 1.0}, "test")
    with pytest.raises(DDError, match=r"inner' of dc is 1.5, it must be a whole number$"):
        resolve("dc", "digits", 1, {"inner": 1.5})
    with pytest.raises(DDError, match=r"inner is 1.5, it must be a whole number$"):
        parse("dc@inner=1.5")
    with pytest.raises(DDError, match=r"temperature is True, it must be a number$"):
        parse_protocol("kd", {"kd": {"temperature": 3}}, temperature=True)
