# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from akida_backend.errors import InputError
from akida_backend.options import Options, unknown


def test_defaults_are_those_of_the_documentation() -> None:
    options = Options.parse({})
    assert (options.device, options.emulation, options.host, options.fallback) == (
        "akida2",
        "device",
        "reference",
        "allow",
    )
    assert (options.max_partitions, options.min_partition_macs) == (0, 0)
    assert (options.calibration_limit, options.threads) == (64, 1)


@pytest.mark.parametrize(
    ("name", "given", "parsed"),
    [
        pytest.param("allow", "type:ADD, name:a", ("type:ADD", "name:a"), id="list-as-text"),
        pytest.param("deny", "op:3,op:14", ("op:3", "op:14"), id="numbers"),
        pytest.param("deny", ["type:ADD"], ("type:ADD",), id="list"),
        pytest.param("deny", "", (), id="empty-list"),
        pytest.param("max_partitions", "3", 3, id="number-as-text"),
        pytest.param("threads", "2", 2, id="threads"),
        pytest.param("strict_hardware", "1", True, id="flag-as-1"),
        pytest.param("strict_hardware", "False", False, id="flag-as-word"),
        pytest.param("strict_converter", True, True, id="flag"),
        pytest.param("fallback", "strict", "strict", id="choice"),
    ],
)
def test_values_may_be_strings_as_plug_ins_pass_them(
    name: str, given: object, parsed: object
) -> None:
    assert getattr(Options.parse({name: given}), name) == parsed


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        pytest.param("falback", "warn", "unknown option 'falback'; did you mean", id="name"),
        pytest.param("fallback", "wran", "did you mean 'warn'", id="choice"),
        pytest.param("emulation", "hardware", "known: device, source", id="level"),
        pytest.param("max_partitions", "-1", "whole number of at least 0", id="negative"),
        pytest.param("max_partitions", "1.5", "whole number", id="not-whole"),
        pytest.param("max_partitions", True, "whole number", id="flag-for-number"),
        pytest.param("threads", 0, "whole number from 1 to 256", id="too-few-threads"),
        pytest.param("threads", 257, "whole number from 1 to 256", id="too-many-threads"),
        pytest.param("strict_hardware", "yes", "true or false", id="no-flag"),
        pytest.param("allow", "CONV_2D", "form type:CONV_2D, name:conv_1 or op:12", id="entry"),
        pytest.param("deny", 3, "needs a list", id="no-list"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options.parse({name: given})


def test_unknown_names_get_the_nearest_and_all() -> None:
    assert unknown("device", "AKD100", ("akd1000", "akida2")) == (
        "unknown device 'AKD100'; did you mean 'akd1000'?\n  known: akd1000, akida2"
    )
    long = tuple(f"{letter * 90}" for letter in "abcdefgh")
    assert unknown("name", "c" * 80, long) == (
        f"unknown name '{'c' * 80}'; did you mean '{'c' * 90}'?\n"
        f"  known: {'c' * 90}, {'a' * 90}, {'b' * 90}, {'d' * 90}, and 4 more"
    )
    assert unknown("device", "zzz", ("akida2",)) == "unknown device 'zzz'\n  known: akida2"
