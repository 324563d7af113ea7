# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from tflite import BuiltinOperator

import akida_backend
from akida_backend.constraints import LayerType, rules_of
from akida_backend.devices import device
from akida_backend.importers.tflite_operators import CONVERSIONS
from akida_backend.ops import ALL_SPECS
from akida_backend.support_table import (
    layer_rules,
    layers_of,
    operations_document,
    operations_json,
    operators_of,
    supported_operations_page,
)

ROOT = Path(akida_backend.__file__).parents[1]
AKIDA2 = device("akida2")


def test_the_page_in_the_project_is_up_to_date() -> None:
    page = (ROOT / "SUPPORTED_OPS.md").read_text(encoding="utf-8")
    assert page == supported_operations_page(), "run `make docs`"


def test_operations_name_exactly_the_operators_that_are_imported() -> None:
    named = [name for spec in ALL_SPECS for name in operators_of(spec)]
    numbers = {getattr(BuiltinOperator, name) for name in named}
    assert len(named) == len(numbers)
    assert numbers == set(CONVERSIONS)


def test_every_layer_an_operation_becomes_has_rules() -> None:
    for name, count in (("akida2", 8), ("akd1000", 4)):
        target = device(name)
        layers = {layer for spec in ALL_SPECS for layer in layers_of(spec, target)}
        assert len(layers) == count
        assert {layer for layer in layers if not layer_rules(target, layer)} == set()


def test_the_page_lists_every_converter_rule_with_the_reason_it_decides_or_not() -> None:
    page = supported_operations_page().replace("\\", "")
    converter = [rule for rule in rules_of(AKIDA2) if rule.reason is not None]
    assert converter
    for rule in converter:
        assert f"| {rule.id} |" in page
        assert rule.reason is not None
        assert rule.reason.replace("\\", "") in page


def test_each_generation_is_described_by_its_own_layers() -> None:
    text = str(operations_document(device("akd1000")))
    assert "V1-CONV-STRIDE2-KERNEL" in text
    assert "SeparableConvolutional" in text
    assert "Rules of Conv2DTranspose" not in text


def test_no_sentence_on_akida_1_names_a_layer_of_akida_2() -> None:
    newer = {layer.value for layer in LayerType if layer.generation == 2}
    for name in ("akd1000", "nsoc-production"):
        target = device(name)
        assert target.generation == 1
        table = operations_json(target)["operations"]
        assert isinstance(table, list)
        for row in table:
            assert not any(layer in row["placement"] for layer in newer), row
            if row["operators"] == ["TRANSPOSE_CONV"]:
                assert row["placement"] == "No Akida layer computes it."


def test_write_docs_checks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "tools" / "write_docs.py"
    spec = importlib.util.spec_from_file_location("write_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "write_docs", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert module.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().err
    assert module.main([]) == 0
    assert (tmp_path / "SUPPORTED_OPS.md").read_text(encoding="utf-8") == (
        supported_operations_page()
    )
    assert module.main(["--check"]) == 0
