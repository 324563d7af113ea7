# SPDX-License-Identifier: Apache-2.0
"""Limits of layers and graphs, judged: all rules a layer breaks, as data.

The rules themselves are data in ``profiles/``; `akida_backend.constraint_rules` describes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from akida_backend.constraint_rules import (
    Check,
    Decides,
    Limit,
    LimitTable,
    Origin,
    Rule,
    Scope,
    Violation,
    numbers,
    rules_in,
)
from akida_backend.devices import Device
from akida_backend.graph import Pads, Size2D
from akida_backend.layer_facts import (
    LATER,
    OUTSIDE,
    Fact,
    LayerFacts,
    LayerType,
    padding_kind,
    pair,
    pool_pads_kind,
)

__all__ = [
    "Check",
    "Decides",
    "LayerFacts",
    "LayerType",
    "Limit",
    "Origin",
    "Rule",
    "Scope",
    "Violation",
    "graph_violation",
    "own_rules",
    "padding_kind",
    "placement_rules",
    "pool_pads_kind",
    "rules_of",
    "violations",
]


def rules_of(device: Device) -> tuple[Rule, ...]:
    """Every published rule for a device: its profile, then its generation's converter."""
    return rules_in(device.constraints) + rules_in(f"conversion{device.generation}")


def own_rules() -> tuple[Rule, ...]:
    """The reasons of this compiler that no publication states."""
    return rules_in("own")


def placement_rules(device: Device, *, strict: bool = False) -> tuple[Rule, ...]:
    """The rules that `violations` evaluates, in data order.

    Args:
        device: Whose.
        strict: Also those that only the vendor's converter needs (option strict_converter).
    """
    deciding = (Decides.ALWAYS, Decides.STRICT) if strict else (Decides.ALWAYS,)
    every = _by_code(device).values()
    return tuple(r for r in every if r.scope is Scope.LAYER and r.decides in deciding)


def graph_violation(
    code: str,
    found: str,
    device: Device,
    *,
    limit: Limit | None = None,
    remedy: str | None = None,
) -> Violation:
    """A violation that the caller found, of any rule of the device or of this compiler.

    Args:
        code: Id of the rule.
        found: What the model has, in words.
        device: Target.
        limit: The limiting value where it is not the rule's own; fills the sentence of this
            compiler's rules.
        remedy: A better remedy than the rule's, where the case is known more closely.
    """
    rule = _by_code(device).get(code)
    if rule is None:
        raise ValueError(f"no rule '{code}' for device '{device.name}'")
    return rule.violation(found, limit, remedy)


@cache
def _by_code(device: Device) -> Mapping[str, Rule]:
    return {rule.id: rule for rule in (*rules_of(device), *own_rules())}


def violations(
    facts: LayerFacts,
    device: Device,
    *,
    strict: bool = False,
    rules: Iterable[Rule] | None = None,
) -> tuple[Violation, ...]:
    """All rules a layer breaks, in data order.

    Args:
        facts: The layer.
        device: Target; must be of the layer's generation.
        strict: Also obey rules that only the vendor's converter needs.
        rules: Evaluate these instead of `placement_rules`.

    Raises:
        ValueError: The layer is of another generation, or a fact a rule needs is None.
    """
    if facts.layer.generation not in (None, device.generation):
        raise ValueError(f"{facts.layer} is no layer of '{device.name}'")
    if rules is None:
        rules = placement_rules(device, strict=strict)
    broken = (_judge(rule, facts) for rule in rules if rule.speaks_of(facts.layer))
    return tuple(violation for violation in broken if violation is not None)


def _judge(rule: Rule, facts: LayerFacts) -> Violation | None:
    if not _holds(rule, facts):
        return None
    fact = facts.fact(rule.what)
    if fact is None:
        if rule.what in LATER or (rule.layer is LayerType.GRAPH and rule.when is None):
            return None
        raise _missing(rule, facts, rule.what)
    if rule.what in ("output_bits", "act_bits") and facts.gives_accumulators:
        return None
    limit = _limit(rule, facts)
    check = rule.check
    if isinstance(rule.value, Mapping):
        assert rule.row_check is not None
        check = rule.row_check
        if limit is None:  # no row for these keys: the rule on the key itself refuses them
            return None
    if _obeys(rule, check, fact, limit, facts):
        return None
    return rule.violation(_found(rule, facts), limit)


def _missing(rule: Rule, facts: LayerFacts, what: str) -> ValueError:
    return ValueError(f"the facts of {facts.layer} lack '{what}', which {rule.id} needs")


def _holds(rule: Rule, facts: LayerFacts) -> bool:
    """Whether the condition of a rule is met."""
    match rule.when:
        case None:
            return True
        case "max_pool" | "average_pool" as kind:
            if facts.pool_type is None and rule.layer is not LayerType.GRAPH:
                raise _missing(rule, facts, "pool_type")
            return kind == f"{facts.pool_type}_pool"
        case "kernel_stride == 2":
            if facts.kernel_stride is None:
                raise _missing(rule, facts, "kernel_stride")
            return 2 in pair(facts.kernel_stride)
        case "consumer is Add":
            return facts.consumers is not None and LayerType.ADD in facts.consumers
        case _:
            pass
    raise ValueError(f"{rule.id}: condition '{rule.when}' cannot be evaluated on a layer")


def _limit(rule: Rule, facts: LayerFacts) -> Limit | None:
    """The value that limits these facts: a table's row, another fact, or the value itself."""
    value: Limit | LimitTable | None = rule.value
    for key in rule.keys:
        fact = facts.fact(key)
        if fact is None:
            raise _missing(rule, facts, key)
        assert isinstance(fact, int | str)
        value = value.get(fact) if isinstance(value, Mapping) else None
    assert not isinstance(value, Mapping), f"{rule.id}: too few keys for the table"
    if isinstance(value, str) and hasattr(LayerFacts, value):
        other = facts.fact(value)
        if other is None:
            raise _missing(rule, facts, value)
        parts = _parts(other, ())
        return parts[0] if isinstance(other, int | str) else parts
    return value


def _parts(fact: Fact, axis: tuple[int, ...]) -> tuple[int, ...] | tuple[str, ...]:
    """The values a rule looks at: a size on the rule's axes, or the fact itself."""
    match fact:
        case Size2D():
            return tuple(pair(fact)[a] for a in axis) if axis else pair(fact)
        case Pads(top, bottom, left, right):
            return (top, left, bottom, right)  # as ONNX orders them
        case int():
            return (fact,)
        case str():
            return (fact,)
        case tuple():
            return fact


def _obeys(rule: Rule, check: Check, fact: Fact, limit: Limit | None, facts: LayerFacts) -> bool:
    """Whether `fact` passes `check` against `limit`."""
    parts = _parts(fact, rule.axis)
    match check:
        case Check.ONE_OF:
            assert isinstance(limit, tuple)
            return parts in limit or all(part in limit for part in parts)
        case Check.EQUALS:
            return parts == limit or all(part == limit for part in parts)
        case Check.FORBIDS:
            return not (parts == limit or all(part == limit for part in parts))
        case Check.NEXT_LAYER:
            assert isinstance(limit, tuple)
            return bool(parts) and all(part in limit for part in parts)
        case Check.MIN:
            (least,) = numbers(limit)
            return all(part >= least for part in numbers(parts))
        case Check.MAX:
            (most,) = numbers(limit)
            return all(part <= most for part in numbers(parts))
        case Check.RANGE:
            least, most = numbers(limit)
            return all(least <= part <= most for part in numbers(parts))
        case Check.MULTIPLE_OF:
            (step,) = numbers(limit)
            return all(part % step == 0 for part in numbers(parts))
        case Check.LE:
            pairs = zip(numbers(parts), numbers(limit), strict=True)
            return all(part <= most for part, most in pairs)
        case Check.SUPPORTED:
            return limit is True
        case Check.REQUIRES:
            return _has(limit, facts)
        case Check.TABLE | Check.REPORTED:
            raise ValueError(f"{rule.id}: '{check}' cannot be evaluated on a layer")


def _has(required: Limit | None, facts: LayerFacts) -> bool:
    """Whether a layer has one of the properties that `requires` names."""
    match required:
        case "square":
            return not facts.kernel_stride_pool
        case "two_different_tensors":
            return facts.operands == required
        case "power_of_two":
            return facts.input_scales == required
        case "one_is_zero":
            shifts = facts.shifts or (0, 0)
            return min(shifts) == 0
        case "bounded_relu":  # of every layer but the last
            inner = facts.consumers is not None and not facts.is_last
            return facts.activation == required or not inner
        case "conv_then_pool_then_activation":
            return facts.pooling == required
        case "equal_halves":
            return facts.pointwise_weights_bits in (None, facts.weights_bits)
        case "scalar":
            return len(set(facts.padding_value or ())) <= 1
        case _:
            pass
    raise ValueError(f"'{required}' is no property of a layer")


def _found(rule: Rule, facts: LayerFacts) -> str:
    """What the layer has instead, in words."""
    channels = facts.input_channels
    kernel = f"a {facts.kernel_size} kernel"
    compared = rule.value == "input_size"
    on_input = f" on a {facts.input_size} input" if compared else ""
    match rule.what:
        case "layer_type":
            return f"the layer is {facts.layer}"
        case "input_size" if len(rule.axis) > 1:
            return f"a {facts.input_size} input"
        case "input_size":
            return _on_axis("the input", facts.input_size, rule.axis)
        case "conv_output_size":
            return _on_axis("the convolution output", facts.conv_output_size, rule.axis)
        case "conv_output_area":
            area = facts.conv_output_area
            return f"a {facts.conv_output_size} convolution output, {area} positions"
        case "input_channels":
            return _count(channels, "input channel")
        case "input_values":
            return f"an input of {facts.input_size}x{channels}, {facts.input_values} values"
        case "kernel_size":
            stride = f" with stride {_short(facts.kernel_stride)}" if rule.when else ""
            return kernel + (on_input if compared else stride)
        case "kernel_stride":
            beside = f" with {kernel}" if rule.keys else ""
            return f"stride {_short(facts.kernel_stride)}{beside}"
        case "kernel_stride_pool":
            return ", ".join(facts.kernel_stride_pool)
        case "dilation":
            return f"dilation {_short(facts.dilation)}"
        case "groups":
            return f"{_count(facts.groups, 'group')} with {_count(channels, 'input channel')}"
        case "filters":
            inputs = f" with {_count(channels, 'input channel')} and {kernel}"
            return _count(facts.filters, "filter") + (inputs if rule.keys else "")
        case "padding":
            words = {"same": "Same", "valid": "Valid", "same_upper": "SameUpper"}
            border = "" if facts.pads is None else f" ({facts.pads})"
            return f"{words.get(facts.padding or '', 'explicit')} padding{border}"
        case "pads":
            return f"pads {facts.pads} with {kernel}"
        case "pool_type":
            average = facts.pool_type == "average"
            return "global average pooling" if average else "max pooling"
        case "pool_size":
            return f"a {facts.pool_size} max pool{on_input}"
        case "pool_stride" | "pool_size_and_stride":
            return f"a {facts.pool_size} max pool with stride {_short(facts.pool_stride)}"
        case "pool_pads":
            return "max-pool pads that are not the convolution's kind, Same or Valid"
        case "pool_padding":
            return f"a max pool with {facts.pool_padding} pads on a {facts.padding} convolution"
        case "pooling":
            return "the pooling stands behind the activation"
        case "activation":
            words = {"none": "no activation", "relu": "a ReLU without a maximum"}
            words |= {"bounded_relu": "a bounded ReLU", "lut": "a look-up-table activation"}
            return words[facts.activation or "none"]
        case "input_bits":
            return f"{facts.input_bits}-bit inputs"
        case "weights_bits" if facts.pointwise_weights_bits not in (None, facts.weights_bits):
            return (
                f"{facts.weights_bits}-bit depthwise and "
                f"{facts.pointwise_weights_bits}-bit pointwise weights"
            )
        case "weights_bits":
            return f"{facts.weights_bits}-bit weights"
        case "output_bits" | "act_bits":
            return f"{facts.output_bits}-bit activations"
        case "fifo_size":
            return f"a FIFO of {_count(facts.fifo_size, 'step')}"
        case "consumer":
            readers = dict.fromkeys(facts.consumers or ("output",))
            inside = [name for name in readers if name not in OUTSIDE]
            outside = ["the host"] if any(name in OUTSIDE for name in readers) else []
            return "followed by " + " and ".join(inside + outside)
        case "position":
            return "it stands behind other layers"
        case "concat_axis":
            return f"concatenation on axis {facts.concat_axis}"
        case "operands":
            kinds = {
                "two_different_tensors": "different maps of one shape",
                "same_tensor": "one map taken twice",
                "constant": "a constant operand",
                "broadcast": "operands of different shapes",
                "different_code": "operands of different bits or sign",
            }
            count = facts.operand_count
            text = kinds[facts.operands or "broadcast"]
            return text if count in (None, 2) else f"{_count(count, 'operand')}, {text}"
        case "input_scales":
            ratio = facts.input_scales == "power_of_two_ratio"
            return "scales that are no powers of two" + (", but their ratio is" if ratio else "")
        case "shifts":
            a_shift, b_shift = facts.shifts or (0, 0)
            return f"a_shift {a_shift} and b_shift {b_shift}"
        case "padding_value":
            return f"border values {', '.join(map(str, facts.padding_value or ()))}"
        case "output_shift":
            shifts = facts.output_shift or (0,)
            return f"output shifts from {min(shifts)} to {max(shifts)}"
        case "net_left_shift":
            return f"a left shift of {facts.net_left_shift}"
        case _:
            return f"{rule.what} is {facts.fact(rule.what)}"


def _short(size: Size2D | None) -> str:
    """A stride or dilation, one number where both axes agree."""
    if size is not None and size.height == size.width:
        return str(size.height)
    return str(size)


def _count(number: int | None, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _on_axis(name: str, size: Size2D | None, axis: tuple[int, ...]) -> str:
    if size is None or len(axis) != 1:
        return f"{name} is {size}"
    return f"axis {axis[0]} of {name} is {pair(size)[axis[0]]}"
