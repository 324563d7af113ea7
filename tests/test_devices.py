# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from akida_backend.constraints import rules_of
from akida_backend.devices import device, devices
from akida_backend.errors import InputError


def test_the_default_device_comes_first_and_has_no_fixed_size() -> None:
    first = devices()[0]
    assert (first.name, first.generation, first.nps) == ("akida2", 2, None)


def test_every_name_leads_to_its_device() -> None:
    for known in devices():
        assert device(known.name) is known
        assert device(f" {known.name.upper()} ") is known
        assert known.metatf_name is None or device(known.metatf_name) is known


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        pytest.param("AKD1000()", "akd1000", id="metatf-call"),
        pytest.param("sixnodesipv2", "akida2-fpga-6n", id="metatf-lower-case"),
        pytest.param("TwelveNodesIPv2()", "akida2-12n", id="metatf-virtual"),
        pytest.param("TwoNodesIPv1()", "akida1-2n", id="metatf-generation-1"),
        pytest.param("NSoC_v2", "nsoc-production", id="metatf-hardware-version"),
        pytest.param("AKIDA2-FPGA-2N", "akida2-fpga-2n", id="upper-case"),
    ],
)
def test_name_in_another_spelling_is_accepted(name: str, canonical: str) -> None:
    assert device(name).name == canonical


def test_unknown_name_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(InputError) as caught:
        device("akida-2")
    message = str(caught.value)
    assert message.startswith("unknown device 'akida-2'; did you mean 'akida2'?")
    assert all(known.name in message for known in devices())


def test_a_device_stands_for_its_name_and_nothing_else_does() -> None:
    chosen = device("akd1000")
    assert device(chosen) is chosen
    with pytest.raises(InputError, match="given by its name, not as NoneType"):
        device(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "()", "None", "x" * 1000])
def test_meaningless_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown device"):
        device(name)


@pytest.mark.parametrize("name", ["pico", "PicoIP()"])
def test_pico_is_known_but_not_supported(name: str) -> None:
    with pytest.raises(InputError, match="is not supported: Akida Pico runs recurrent"):
        device(name)


def test_every_device_has_rules_of_its_generation_and_sources() -> None:
    for known in devices():
        prefix = f"V{known.generation}-"
        assert all(rule.id.startswith(prefix) for rule in rules_of(known))
        assert known.sources
        assert all(" " in source for source in known.sources)


def test_nodes_hold_four_neural_processors() -> None:
    for known in devices():
        assert known.nps == (None if known.nodes is None else 4 * known.nodes)


def test_devices_state_the_collected_facts(shared: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = (shared / "spec" / "devices.yaml").read_text(encoding="utf-8")
    collected = yaml.safe_load(text)["devices"]
    assert set(collected) - {"pico"} <= {known.name for known in devices()}
    for name, facts in collected.items():
        if name == "pico":
            continue
        known = device(name)
        assert known.generation == facts["generation"]
        assert rules_of(known)[0].id.startswith(f"V{facts['generation']}-")
        for field in (
            "nodes",
            "nps",
            "clock_mhz",
            "np_line_limit",
            "partial_reconfiguration",
            "hw_version",
            "metatf_name",
        ):
            assert getattr(known, field) == facts.get(field), (name, field)
        assert known.virtual == facts.get("virtual", False)
        assert list(known.mesh) == facts.get("mesh", [])
        assert list(known.power_floor_mw) == (facts.get("power_floor_mw") or [])
