"""Numbers that are no configuration: not finite, or absurdly large. Refused before any job."""

from __future__ import annotations

import pytest
import yaml

from dd.command import main
from dd.config.documents import check, read_yaml
from dd.errors import DDError
from dd.networks.options import canonical

SMOKE = "workflow/config/runs/smoke.yaml"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_schema_lets_no_number_pass_that_is_none(value):
    schema = {"type": "object", "properties": {"x": {"exclusiveMinimum": 0}}}
    with pytest.raises(DDError, match=r"there: x is (nan|inf|-inf), it must be a finite number"):
        check({"x": value}, schema, "there")
    with pytest.raises(DDError, match=r"there: a\.1\.b is "):
        check({"a": [0, {"b": value}]}, {}, "there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": 1001}, "networks is 1001, it must be at most 1000"),
        ({"seeds": [0, 10**7]}, "seeds.1 is 10000000, it must be at most 1000000"),
        ({"width_factor": 1.0e6}, "width_factor is 1000000.0, it must be at most 100"),
        ({"axes": {"ipc": [10**9], "iterations": [1]}}, "must be at most 100000"),
        ({"axes": {"ipc": [1], "iterations": [10**12]}}, "must be at most 10000000"),
        ({"recipes": {"dc": {"outer": 10**9}}}, "dc: outer is 1000000000, it must be at most"),
        (
            {"recipes": {"buffer": {"experts": 20_000}}},
            "experts is 20000, it must be at most 10000",
        ),
        ({"recipes": {"evaluation": {"epochs": 10**8}}}, "epochs is 100000000, it must be"),
        ({"recipes": {"relabel": {"views": 10**6}}}, "views is 1000000, it must be at most"),
        (
            {"recipes": {"mtt": {"network": "convnet:depth=99999999999"}}},
            "depth is '99999999999', it must be at most 64",
        ),
    ],
)
def test_absurd_numbers_stop_the_configuration(change, message, tmp_path, capsys):
    path, out = tmp_path / "mine.yaml", tmp_path / "config.json"
    path.write_text(yaml.safe_dump(read_yaml(SMOKE) | change))
    assert main(["configure", "--run", str(path), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convnet:width=100001", "width is '100001', it must be at most 100000"),
        ("vit:depth=201", "depth is '201', it must be at most 200"),
        ("mlp:width=" + "9" * 5000, "it must be at most 100000"),
    ],
)
def test_options_of_networks_have_bounds(spec, message):
    with pytest.raises(DDError) as caught:
        canonical(spec)
    assert message in str(caught.value)


def test_networks_of_an_evaluation(tmp_path, capsys):
    words = ["--synthetic", "s", "--data", "d", "--arch", "mlp", "--out", str(tmp_path / "x.csv")]
    assert main(["evaluate", *words, "--networks", "1001"]) == 2
    assert "--networks is 1001, it must be 1 to 1000" in capsys.readouterr().err
