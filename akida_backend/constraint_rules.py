# SPDX-License-Identifier: Apache-2.0
"""Rules on layers and graphs, read from data.

Rules live in ``profiles/``: one file per device profile, one per generation of the vendor's
converter, and ``own.toml`` with this compiler's own reasons. Axes are those of the Akida tensor
and, index for index, of a (height, width, channels) map: axis 0 is the height, axis 1 the width.

A file has ``label`` (begins every source text), ``title``, and perhaps ``generation`` and
``origin`` (of all its rules). A rule has

    id          stable code, unique in its file
    layer       layer type it speaks of, "Graph" for any; `also` lists further ones
    what        the fact it looks at, a name in `LayerFacts`
    check       how (`Check`); `axis` narrows a size to some axes
    value       the limit: kernels and pools are [axis 0, axis 1]; the name of a fact compares with
                that fact; for `table`, rows by the facts in `keys`, judged by `row_check`;
                `requires` names one of `PROPERTIES`
    when        condition under which it applies (`CONDITIONS`)
    rule        the requirement as a sentence; {value} stands for the limit
    remedy      what a user can do; {value} likewise
    origin      whose limit it is
    src         tag of sources.toml and place there, or `source`: the text itself
    mark, note  INF: inferred; CONF: sources conflict, the reading taken is in `note`
    named       the word the source uses for the axis
    scope       "layer": evaluated by `violations`; "graph": found by other code, which calls
                `graph_violation`
    decides     whether it decides placement: always, strict (option strict_converter), never;
                `reason` says why
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

from akida_backend.devices import source_names
from akida_backend.layer_facts import LayerFacts, LayerType
from akida_backend.toml_rows import Row, read_rows

# JSON-able, hashable: lists of the data are tuples.
Limit = bool | int | str | tuple["Limit", ...]
LimitTable = Mapping[int | str, "Limit | LimitTable"]

# What `when` may say in rules that `violations` evaluates.
CONDITIONS: Final = (None, "max_pool", "average_pool", "kernel_stride == 2", "consumer is Add")

# What `requires` may name in them.
PROPERTIES: Final = (
    "square",
    "two_different_tensors",
    "power_of_two",
    "one_is_zero",
    "bounded_relu",
    "conv_then_pool_then_activation",
    "equal_halves",
    "scalar",
)


class Origin(StrEnum):
    """Whose limit it is."""

    DEVICE = "device"
    CONVERTER = "converter"
    COMPILER = "compiler"
    EXACTNESS = "exactness"
    POLICY = "policy"
    GRAPH = "graph"


class Check(StrEnum):
    """How a rule judges its fact."""

    ONE_OF = "one_of"
    RANGE = "range"  # both ends belong to it
    MIN = "min"
    MAX = "max"
    EQUALS = "equals"
    MULTIPLE_OF = "multiple_of"
    LE = "le"  # not above another fact, axis by axis
    TABLE = "table"
    NEXT_LAYER = "next_layer"
    SUPPORTED = "supported"
    FORBIDS = "forbids"
    REQUIRES = "requires"  # a named property
    REPORTED = "reported"  # judged by the code that reports it


class Scope(StrEnum):
    """Who looks: `violations` with the facts of one layer, or code that sees the graph."""

    LAYER = "layer"
    GRAPH = "graph"


class Decides(StrEnum):
    """Whether a rule decides placement."""

    ALWAYS = "always"
    STRICT = "strict"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Violation:
    """One violated rule, as data.

    Attributes:
        code: Stable id of the rule.
        rule: The requirement, filled from the device's limits.
        found: What the model has instead.
        limit: The limiting value, None where the rule has none.
        origin: Whose limit it is.
        source: Profile and published page.
        remedy: What a user can do.
    """

    code: str
    rule: str
    found: str
    limit: Limit | None
    origin: Origin
    source: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """One row of a profile; the fields are described at the top of this module."""

    id: str
    layer: LayerType
    also: tuple[LayerType, ...]
    what: str
    check: Check
    value: Limit | LimitTable | None
    keys: tuple[str, ...]
    row_check: Check | None
    axis: tuple[int, ...]
    named: str | None
    when: str | None
    rule_template: str
    remedy_template: str
    origin: Origin
    src: str | None
    source: str
    mark: str | None
    note: str | None
    scope: Scope
    decides: Decides
    reason: str | None

    @property
    def rule(self) -> str:
        """The requirement as a sentence."""
        return _fill(self.rule_template, self.value, self)

    @property
    def remedy(self) -> str:
        return _fill(self.remedy_template, self.value, self)

    def speaks_of(self, layer: LayerType) -> bool:
        return self.layer in (layer, LayerType.GRAPH) or layer in self.also

    def violation(
        self, found: str, limit: Limit | None = None, remedy: str | None = None
    ) -> Violation:
        """This rule violated; `limit` is the value that mattered, where the rule has several."""
        value = self.value
        if isinstance(value, Mapping):
            shown = limit
        else:
            shown = value if limit is None else limit
            if self.check is Check.REPORTED:
                value = shown
        return Violation(
            code=self.id,
            rule=_fill(self.rule_template, value, self),
            found=found,
            limit=shown,
            origin=self.origin,
            source=self.source,
            remedy=remedy or _fill(self.remedy_template, value, self),
        )


@cache
def rules_in(name: str) -> tuple[Rule, ...]:
    """The rules of one file of ``profiles/``."""
    return read_rules(read_rows(f"{name}.toml"))


def read_rules(file: Row) -> tuple[Rule, ...]:
    """Validate and type the rules of a parsed file.

    Raises:
        ValueError: A rule is malformed; the file, the rule and the field are named.
    """
    label = file.need("label", str)
    file.need("title", str)
    file.find("generation", int)
    origin = file.choice("origin", Origin, Origin.DEVICE)
    rules = tuple(_rule(row, label, origin) for row in file.rows("rule"))
    file.finish()
    codes = [rule.id for rule in rules]
    for code in codes:
        if codes.count(code) > 1:
            raise file.error(f"two rules '{code}'")
    return rules


def _rule(row: Row, label: str, origin: Origin) -> Rule:
    src = row.find("src", str)
    mark = row.find("mark", str)
    note = row.find("note", str)
    source = f"{label}: {row.need('source', str) if src is None else _expand(src, row)}"
    if mark is not None:
        words = {"INF": "inferred", "CONF": "sources conflict"}
        if mark not in words or note is None:
            raise row.error(f"mark '{mark}' is not INF or CONF, or has no note")
        source += f" ({words[mark]}: {note})"
    row_check = row.choice("row_check", Check, Check.TABLE)
    value = row.value("value")
    rule = Rule(
        id=row.need("id", str),
        layer=row.choice("layer", LayerType),
        also=tuple(LayerType(name) for name in row.list_of("also", str)),
        what=row.need("what", str),
        check=row.choice("check", Check),
        value=None if value is None else _typed(value, row),
        keys=row.list_of("keys", str),
        row_check=None if row_check is Check.TABLE else row_check,
        axis=row.list_of("axis", int),
        named=row.find("named", str),
        when=row.find("when", str),
        rule_template=row.need("rule", str),
        remedy_template=row.need("remedy", str),
        origin=row.choice("origin", Origin, origin),
        src=src,
        source=source,
        mark=mark,
        note=note,
        scope=row.choice("scope", Scope, Scope.LAYER),
        decides=row.choice("decides", Decides, Decides.ALWAYS),
        reason=row.find("reason", str),
    )
    row.finish()
    if rule.check is Check.REPORTED:
        rule = dataclasses.replace(rule, scope=Scope.GRAPH)
    elif rule.value is None:
        raise row.error("'value' is missing")
    if rule.scope is Scope.LAYER and rule.decides is not Decides.NEVER:
        _refuse_what_cannot_be_evaluated(rule, row)
    return rule


def _expand(src: str, row: Row) -> str:
    """``HW2 Conv2D / Padding`` or ``QML, C2S`` with the names of the publications."""
    places: list[str] = []
    for part in src.split(", "):
        tag, _, place = part.partition(" ")
        if tag not in source_names():
            raise row.error(f"'src' names the unknown publication '{tag}'")
        places.append(f"{source_names()[tag]}, {place}" if place else source_names()[tag])
    return "; ".join(places)


def _typed(value: object, row: Row) -> Limit | LimitTable:
    """A TOML value with tuples for lists, and whole numbers for keys that are digits."""
    if isinstance(value, dict):
        return {int(k) if k.isdigit() else k: _typed(v, row) for k, v in value.items()}
    return _limit(value, row)


def _limit(value: object, row: Row) -> Limit:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return tuple(_limit(item, row) for item in value)
    raise row.error(f"'value' holds {value!r}")


def _refuse_what_cannot_be_evaluated(rule: Rule, row: Row) -> None:
    """Find on load what would otherwise fail on the first layer a rule meets."""
    for name in (rule.what, *rule.keys):
        if not hasattr(LayerFacts, name):
            raise row.error(f"'{name}' is no fact of a layer")
    if rule.when not in CONDITIONS:
        raise row.error(f"condition '{rule.when}' cannot be evaluated on a layer")
    if not _value_fits(rule):
        raise row.error(f"'value' {rule.value!r} does not fit the check '{rule.check}'")
    try:
        filled = rule.rule + rule.remedy
    except (LookupError, ValueError) as error:
        raise row.error(f"a sentence cannot be filled: {error!r}") from error
    if "{" in filled:
        raise row.error(f"a sentence has an unfilled place: {filled}")


def _value_fits(rule: Rule) -> bool:
    value = rule.value
    match rule.check:
        case Check.ONE_OF | Check.NEXT_LAYER:
            return isinstance(value, tuple) and bool(value)
        case Check.RANGE:
            return isinstance(value, tuple) and [type(v) for v in value] == [int, int]
        case Check.MIN | Check.MAX | Check.MULTIPLE_OF:
            return type(value) is int
        case Check.LE:
            return isinstance(value, str) and hasattr(LayerFacts, value)
        case Check.SUPPORTED:
            return isinstance(value, bool)
        case Check.TABLE:
            return isinstance(value, Mapping) and bool(rule.keys) and rule.row_check is not None
        case Check.REQUIRES:
            return value in PROPERTIES
        case Check.EQUALS | Check.FORBIDS:
            return not isinstance(value, Mapping)
        case Check.REPORTED:
            return False


def _fill(template: str, value: Limit | LimitTable | None, rule: Rule) -> str:
    """A sentence of the data with its limit in words."""
    return template.format(value=_words(value, rule))


def _words(value: Limit | LimitTable | None, rule: Rule) -> object:
    if isinstance(value, Mapping):
        return {key: _words(row, rule) for key, row in value.items()}
    if not isinstance(value, tuple):
        return {"same": "Same", "valid": "Valid"}.get(str(value), str(value))
    if rule.check is Check.RANGE:
        return " to ".join(map(str, value))
    if rule.what == "pool_size_and_stride":
        pairs = [numbers(option) for option in value]
        return _either([f"{side}x{side} with stride {stride}" for side, stride in pairs])
    if any(isinstance(item, tuple) for item in value):
        return _either(["x".join(map(str, numbers(option))) for option in value])
    return _either([str(_words(item, rule)) for item in value])


def _either(parts: Sequence[str]) -> str:
    return " or ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def numbers(value: Limit | None) -> tuple[int, ...]:
    """The number or numbers of a limit.

    Raises:
        ValueError: It holds something else.
    """
    items = value if isinstance(value, tuple) else (value,)
    found = tuple(item for item in items if isinstance(item, int))
    if len(found) != len(items):
        raise ValueError(f"expected numbers, found {value!r}")
    return found
