"""Methods and protocols: how they are written, their settings, and what is wrong with others."""

import pytest

from dd.config.methods import Definitions, Method, parse, parse_protocol
from dd.errors import DDError

PROTOCOLS = {
    "hard": {"protocol": "hard"},
    "kd": {"protocol": "kd", "variant": "paper", "temperature": 3, "alpha": 0.5},
}


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("dc", Method("dc")),
        ("dm+pool", Method("dm", pool="pool")),
        ("dc+pool-x", Method("dc", pool="pool-x")),
    ],
)
def test_methods(text, method):
    assert parse(text, ["pool", "pool-x"]) == method
    assert str(method) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dcc", "unknown objective 'dcc': did you mean 'dc'?"),
        ("dc+poool", "unknown modifier of method 'dc+poool' 'poool': did you mean 'pool'?"),
        ("dc+pool+pool-x", "names more than one network source"),
    ],
)
def test_wrong_methods(text, message):
    with pytest.raises(DDError) as error:
        parse(text, ["pool", "pool-x"])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "canonical", "settings"),
    [
        ("iadd@weights=raw", "iadd@weights=raw", {"weights": "raw"}),
        ("iadd@weights=raw+pool", "iadd@weights=raw+pool", {"weights": "raw"}),
        ("mtt@student_steps=5,lr_img=10", "mtt@lr_img=10,student_steps=5",
         {"student_steps": 5, "lr_img": 10.0}),
        ("mtt@lr_lr=1e-7", "mtt@lr_lr=1e-07", {"lr_lr": 1e-7}),
    ],
)  # fmt: skip
def test_settings_in_a_method(text, canonical, settings):
    method = parse(text, ["pool"])
    assert (str(method), dict(method.settings)) == (canonical, settings)
    assert all(type(method.settings[name]) is type(value) for name, value in settings.items())
    assert parse(canonical, ["pool"]) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iadd@weight=raw", "unknown setting of iadd 'weight': did you mean 'weights'?"),
        ("iadd@weights", "'weights' must be NAME=VALUE"),
        ("mtt@student_steps=many", "student_steps is 'many', it must be a whole number"),
    ],
)
def test_wrong_settings_in_a_method(text, message):
    with pytest.raises(DDError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "overrides", "name"),
    [
        ("kd", {}, "kd"),
        ("kd@temperature=3", {}, "kd"),
        ("kd@temperature=3.0", {}, "kd"),
        ("kd", {"temperature": 0.5}, "kd@temperature=0.5"),
        ("kd@temperature=0.5", {"alpha": 0.9}, "kd@alpha=0.9,temperature=0.5"),
        ("kd@temperature=0.5,alpha=0.9", {}, "kd@alpha=0.9,temperature=0.5"),
        ("kd@temperature=0.5", {"temperature": 3}, "kd"),
        ("kd@variant=released", {}, "kd@variant=released"),
    ],
)
def test_canonical_protocols(text, overrides, name):
    protocol = parse_protocol(text, PROTOCOLS, **overrides)
    assert str(protocol) == name
    assert parse_protocol(name, PROTOCOLS).options == protocol.options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", "unknown protocol 'kdd': did you mean 'kd'?"),
        (
            "kd@temperatur=1",
            "unknown option of protocol 'kd' 'temperatur': did you mean 'temperature'?",
        ),
        ("kd@temperature=warm", "temperature is 'warm', it must be a number"),
        ("kd@temperature", "must be NAME=VALUE"),
        ("hard@temperature=1", "unknown option of protocol 'hard' 'temperature'"),
    ],
)
def test_wrong_protocols(text, message):
    for known in (PROTOCOLS, Definitions(PROTOCOLS)):  # as a document, and as a run has them
        with pytest.raises(DDError) as error:
            parse_protocol(text, known)
        assert message in str(error.value)


@pytest.mark.parametrize("value", [3, 1.5, True, None, ["dc"]])
def test_a_method_is_text(value):
    with pytest.raises(DDError, match="must be text, such as dc"):
        parse(value)
