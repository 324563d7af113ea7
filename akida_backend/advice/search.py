# SPDX-License-Identifier: Apache-2.0
"""The smallest change of a would-be layer that meets every rule: breadth first over its facts.

Which facts may change, and to what, is read from the broken rules themselves; every state is
judged by `violations`. One change comes before two, changes that keep the size of the result
before others, then the nearest value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from akida_backend.constraints import (
    Check,
    LayerFacts,
    LayerType,
    Limit,
    Rule,
    placement_rules,
    violations,
)
from akida_backend.devices import Device
from akida_backend.graph import NO_PADS, ONE, Pads, Size2D
from akida_backend.layer_facts import pair
from akida_backend.program import same_pads

MOST_CHANGES: Final = 3
MOST_STATES: Final = 4000

# Facts a user can change, and what a change of a fact that follows from others must turn at.
_FREE: Final = (
    "kernel_size",
    "kernel_stride",
    "padding",
    "dilation",
    "groups",
    "filters",
    "input_size",
    "input_channels",
    "pool_size",
    "pool_stride",
    "pool_pads",
    "activation",
)
_BEHIND: Final[Mapping[str, tuple[str, ...]]] = {
    "kernel_side": ("kernel_size",),
    "kernel_stride_pool": ("kernel_size", "kernel_stride", "pool_size", "pool_stride"),
    "pool_size_and_stride": ("pool_size", "pool_stride"),
    "pool_padding": ("pool_pads",),
    "conv_padding": ("padding",),
    "conv_output_size": ("kernel_stride",),
    "conv_output_area": ("kernel_stride",),
    "pads": ("padding",),
}


@dataclass(frozen=True, slots=True)
class FactChange:
    """A layer that would be placed, and what differs from the layer that is not.

    Attributes:
        facts: Of the layer that would be placed.
        names: Facts that differ, in the order of `_FREE`.
    """

    facts: LayerFacts
    names: tuple[str, ...]


def smallest_changes(
    facts: LayerFacts, device: Device, *, strict: bool, frozen: frozenset[str] = frozenset()
) -> Iterator[FactChange]:
    """Changes that meet every rule, the smallest first; none if the layer breaks no rule.

    Args:
        facts: A layer that breaks rules.
        device: Target.
        strict: Option strict_converter.
        frozen: Facts that must stay.
    """
    rules = [r for r in placement_rules(device, strict=strict) if r.speaks_of(facts.layer)]
    seen = {facts}
    frontier = [facts]
    for _ in range(MOST_CHANGES):
        reached: list[LayerFacts] = []
        for state in frontier:
            for neighbour in _neighbours(state, facts, rules, device, strict, frozen):
                if neighbour not in seen and len(seen) < MOST_STATES:
                    seen.add(neighbour)
                    reached.append(neighbour)
        fitting = [s for s in reached if not violations(s, device, strict=strict)]
        for state in sorted(fitting, key=lambda s: _distance(facts, s)):
            yield FactChange(state, changed_names(facts, state))
        # What already fits needs no further change.
        frontier = [state for state in reached if state not in fitting]


def changed_names(before: LayerFacts, after: LayerFacts) -> tuple[str, ...]:
    """The facts that differ, but for those that only follow."""
    names = [name for name in _FREE if getattr(before, name) != getattr(after, name)]
    if "dilation" in names and after.kernel_size == _extent(before):
        names = [name for name in names if name != "kernel_size"]  # the same taps: one change
    return tuple(names)


def _neighbours(
    state: LayerFacts,
    start: LayerFacts,
    rules: list[Rule],
    device: Device,
    strict: bool,
    frozen: frozenset[str],
) -> Iterator[LayerFacts]:
    """States one change away, at facts that broken rules look at and that did not change yet."""
    codes = {violation.code for violation in violations(state, device, strict=strict)}
    turned: dict[str, None] = {}
    for rule in rules:
        if rule.id in codes:
            turned.update(dict.fromkeys(_facts_of(rule)))
    done = {*changed_names(start, state), *frozen}
    for name in turned:
        if name in done or getattr(state, name) is None:
            continue
        for value in _values(name, state, rules):
            neighbour = _with(state, name, value)
            if neighbour is not None and neighbour != state:
                yield neighbour


def _facts_of(rule: Rule) -> Iterator[str]:
    """Facts a user can turn at to meet a rule."""
    names = [rule.what, *rule.keys]
    if rule.when == "kernel_stride == 2":
        names.append("kernel_stride")
    if isinstance(rule.value, str) and rule.value in ("pool_size", "input_size"):
        names.append(rule.value)
    for name in names:
        for behind in _BEHIND.get(name, (name,)):
            if behind in _FREE:
                yield behind


def _values(name: str, state: LayerFacts, rules: list[Rule]) -> list[object]:
    """Values the device's own rules name for a fact, with their kind."""
    match name:
        case "dilation":
            return [ONE]
        case "padding":
            return ["same", "valid"]
        case "pool_pads":
            return ["same_on_conv_output", "zero"]
        case "activation":
            return ["bounded_relu", "relu", "none"]
        case "groups":
            return [1] if state.groups != state.input_channels else [state.input_channels]
        case _:
            pass
    found: dict[object, None] = {}
    for rule in rules:
        behind = _BEHIND.get(rule.what, (rule.what,))
        if name in behind or name in rule.keys or (name == "kernel_size" and rule.keys):
            for value in _limits(rule, state):
                found.update(dict.fromkeys(_typed(name, value, rule, state)))
    return list(found)


def _limits(rule: Rule, state: LayerFacts) -> Iterator[Limit]:
    """The limiting values of a rule, one by one; of a table those of the row that applies."""
    value = rule.value
    if isinstance(value, Mapping):
        for key in rule.keys:
            fact = state.fact(key)
            if not isinstance(value, Mapping) or not isinstance(fact, int | str):
                return
            value = value.get(fact)
        if isinstance(value, Mapping):
            return
    if isinstance(value, str) and hasattr(LayerFacts, value):
        other = state.fact(value)
        value = pair(other) if isinstance(other, Size2D) else None
        if value is not None:
            yield value
        return
    check = rule.row_check if rule.check is Check.TABLE else rule.check
    if value is None or isinstance(value, Mapping):
        return
    if check in (Check.ONE_OF, Check.RANGE) and isinstance(value, tuple):
        yield from value
    elif check in (Check.MIN, Check.MAX, Check.EQUALS):
        yield value


def _typed(name: str, limit: Limit, rule: Rule, state: LayerFacts) -> Iterator[object]:
    """A limit as a value of a fact: a size on the rule's axes, or a number."""
    old = getattr(state, name)
    if isinstance(old, int):
        if isinstance(limit, int) and not isinstance(limit, bool):
            yield limit
        return
    if not isinstance(old, Size2D):
        return
    if rule.what == "pool_size_and_stride" and isinstance(limit, tuple):
        side = limit[0] if name == "pool_size" else limit[1]
        if isinstance(side, int):
            yield Size2D(side, side)
    elif isinstance(limit, tuple):
        height, width = limit
        if isinstance(height, int) and isinstance(width, int):
            yield Size2D(height, width)
    elif isinstance(limit, int) and rule.what in (name, *_BEHIND):
        axes = rule.axis or (0, 1)
        if name == "kernel_stride" and rule.what != "kernel_stride":
            return
        yield Size2D(
            limit if 0 in axes else old.height,
            limit if 1 in axes else old.width,
        )


def _with(state: LayerFacts, name: str, value: object) -> LayerFacts | None:
    """The layer with another value of a fact, and all that follows from it."""
    changed = replace(state, **{name: value})  # type: ignore[arg-type]
    if name == "dilation":  # written out: the same taps in a larger kernel
        changed = replace(changed, kernel_size=_extent(state))
    if name == "groups" and state.layer is LayerType.DEPTHWISE_CONV2D:
        changed = replace(changed, groups=state.input_channels, filters=state.input_channels)
    return _with_borders(changed)


def _extent(facts: LayerFacts) -> Size2D | None:
    """Kernel with the gaps of its dilation."""
    kernel, dilation = facts.kernel_size, facts.dilation or ONE
    if kernel is None:
        return None
    return Size2D(
        (kernel.height - 1) * dilation.height + 1, (kernel.width - 1) * dilation.width + 1
    )


def _with_borders(facts: LayerFacts) -> LayerFacts | None:
    """Pads and output size that belong to a layer's kernel, strides and padding."""
    extent, size, stride = _extent(facts), facts.input_size, facts.kernel_stride
    transposed = facts.layer in (LayerType.CONV2D_TRANSPOSE, LayerType.DEPTHWISE_CONV2D_TRANSPOSE)
    if extent is None or size is None or stride is None or transposed:
        return facts
    pads = facts.pads or NO_PADS
    if facts.padding == "same":
        pads = same_pads(size, extent, stride)
    elif facts.padding == "valid":
        pads = NO_PADS
    output = conv_output(size, extent, stride, pads)
    return None if output is None else replace(facts, pads=pads, conv_output_size=output)


def conv_output(size: Size2D, extent: Size2D, stride: Size2D, pads: Pads) -> Size2D | None:
    """Size of a convolution's output; None where the kernel does not fit the map."""
    height = size.height + pads.top + pads.bottom - extent.height
    width = size.width + pads.left + pads.right - extent.width
    if height < 0 or width < 0:
        return None
    return Size2D(height // stride.height + 1, width // stride.width + 1)


def _distance(before: LayerFacts, after: LayerFacts) -> tuple[float, ...]:
    names = changed_names(before, after)
    resized = after.conv_output_size != before.conv_output_size or any(
        name in ("pool_stride", "filters", "input_size", "input_channels") for name in names
    )
    steps = areas = 0
    for name in names:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, Size2D) and isinstance(new, Size2D):
            steps += abs(old.height - new.height) + abs(old.width - new.width)
            areas += abs(old.area - new.area)
        elif isinstance(old, int) and isinstance(new, int):
            steps += abs(old - new)
        else:
            # Words are listed with the commonest first.
            steps += 1 + _values(name, before, []).index(new)
    return len(names), resized, steps, areas


_SAID: Final[Mapping[str, str]] = {
    "kernel_size": "a {new} kernel instead of {old}",
    "kernel_stride": "stride {new} instead of {old}",
    "filters": "{new} filters instead of {old}",
    "input_size": "an input of {new} instead of {old}",
    "input_channels": "{new} input channels instead of {old}",
    "pool_size": "a {new} max pool instead of {old}",
    "pool_stride": "pooling stride {new} instead of {old}",
}
_WORDS: Final[Mapping[str, str]] = {
    "same": "Same",
    "valid": "Valid",
    "same_upper": "SameUpper",
    "explicit": "explicit",
    "same_on_conv_output": "Same",
    "zero": "Valid",
    "other": "other",
    "none": "no activation",
    "relu": "a ReLU",
    "bounded_relu": "a ReLU with a maximum",
    "lut": "a table",
}


def said(before: LayerFacts, change: FactChange) -> str:
    """A change in words."""
    after = change.facts
    parts = []
    for name in change.names:
        old, new = getattr(before, name), getattr(after, name)
        match name:
            case "padding":
                parts.append(f"{_WORDS[new]} padding instead of {_WORDS[old]}")
            case "pool_pads":
                parts.append(f"{_WORDS[new]} padding of the max pool")
            case "activation":
                parts.append(f"{_WORDS[new]} instead of {_WORDS[old]}")
            case "groups" if new == 1:
                parts.append(f"one group instead of {old}")
            case "groups":
                parts.append("one filter per channel")
            case "dilation" if "kernel_size" in change.names:
                parts.append("no dilation")
            case "dilation":
                parts.append(f"the dilated kernel written out as {after.kernel_size}")
            case _:
                parts.append(_SAID[name].format(old=_short(old, name), new=_short(new, name)))
    joined = list(itertools.chain(parts[:-2], [" and ".join(parts[-2:])]))
    return ", ".join(joined)


def _short(value: object, name: str) -> str:
    if isinstance(value, Size2D) and "stride" in name and value.height == value.width:
        return str(value.height)
    return str(value)
