# SPDX-License-Identifier: Apache-2.0
"""The node tests of the installed onnx through `akida_backend.onnx_backend`, one row per operator.

    python tools/write_backend_report.py [-o reports/onnx_backend.md]

Every test feeds a model of one operator (or its function body) and compares the outputs with
those that onnx gives. Exits with 1 where an output is wrong or anything but a refusal is raised.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from akida_backend import onnx_backend
from akida_backend.document import Block, Heading, Items, Lines, Table, markdown
from akida_backend.errors import AkidaBackendError
from akida_backend.onnx_backend import Prepared
from akida_backend.writing import write_text

# Tests whose cause of failure lies outside this project: tests/test_onnx_backend.py proves it.
RANDOM: Final = "its output is random: no other generator gives the numbers of the test"
NARROW: Final = "onnxruntime's kernel misses the tolerance of the test"
KERNEL: Final = "onnxruntime's kernel gives another result than the test"
REFERENCE: Final = (
    "onnxruntime has no kernel, and onnx.reference gives another result than the test"
)
OTHER_RELEASE: Final = "this release of the runtime, called directly, gives another result"
RUNNER: Final = "onnx's own comparison of these lists raises TypeError, on equal ones too"
EXCLUDED: Final[Mapping[str, str]] = {
    "test_bernoulli": RANDOM,
    "test_bernoulli_double": RANDOM,
    "test_bernoulli_double_expanded": RANDOM,
    "test_bernoulli_expanded": RANDOM,
    "test_bernoulli_seed": RANDOM,
    "test_bernoulli_seed_expanded": RANDOM,
    "test_training_dropout": RANDOM,
    "test_training_dropout_default": RANDOM,
    "test_training_dropout_default_mask": RANDOM,
    "test_training_dropout_mask": RANDOM,
    "test_attention_4d_causal_fp16": NARROW,
    "test_dft": NARROW,
    "test_dft_axis": NARROW,
    "test_dft_axis_opset19": NARROW,
    "test_dft_inverse": NARROW,
    "test_dft_inverse_opset19": NARROW,
    "test_dft_irfft": NARROW,
    "test_dft_irfft_opset19": NARROW,
    "test_dft_opset19": NARROW,
    "test_dft_rfft": NARROW,
    "test_dft_rfft_opset19": NARROW,
    "test_stft": NARROW,
    "test_stft_with_window": NARROW,
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": KERNEL,
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": KERNEL,
    "test_maxunpool_export_with_output_shape": KERNEL,
    "test_resize_downsample_scales_cubic_align_corners": KERNEL,
    "test_resize_downsample_scales_linear_align_corners": KERNEL,
    "test_range_bfloat16_type_positive_delta_expanded": REFERENCE,
    "test_loop16_seq_none": RUNNER,
}


class Outcome(Enum):
    """Who computed a test's outputs, or why nobody did."""

    DEVICE = "device"
    REFERENCE = "reference"
    ONNXRUNTIME = "onnxruntime"
    ONNX_REFERENCE = "onnx.reference"
    REFUSED = "refused"
    EXCLUDED = "excluded"
    WRONG = "wrong"
    CRASHED = "crashed"


QUANTIZED: Final = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
BAD: Final = (Outcome.WRONG, Outcome.CRASHED)
OTHERS: Final = (Outcome.ONNXRUNTIME, Outcome.ONNX_REFERENCE)
HOSTS: Final = (Outcome.REFERENCE, *OTHERS)


@dataclass(frozen=True, slots=True)
class Result:
    """One test.

    Attributes:
        name: Of the test.
        operator: That it is about.
        outcome: What became of it.
        detail: The reason of a refusal or exclusion, or what went wrong.
    """

    name: str
    operator: str
    outcome: Outcome
    detail: str = ""


def node_tests() -> list[Any]:
    """Test cases of the installed onnx; making them warns of divisions by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def run_test(case: Any) -> Result:  # noqa: ANN401
    """One test case on device CPU."""
    operator = operator_of(case)
    if case.name in EXCLUDED:
        return Result(case.name, operator, Outcome.EXCLUDED, EXCLUDED[case.name])
    try:
        prepared = onnx_backend.prepare(case.model)
        for inputs, expected in case.data_sets:
            check_outputs(case, expected, prepared.run(arrays(inputs)))
    except AkidaBackendError as error:
        first, *_ = str(error).splitlines()
        return Result(case.name, operator, Outcome.REFUSED, first)
    except AssertionError as error:
        if outcome_of(prepared) in OTHERS and fails_without_project(case):
            return Result(case.name, operator, Outcome.EXCLUDED, OTHER_RELEASE)
        return Result(case.name, operator, Outcome.WRONG, " ".join(str(error).split()))
    except Exception as error:
        return Result(case.name, operator, Outcome.CRASHED, f"{type(error).__name__}: {error}")
    return Result(case.name, operator, outcome_of(prepared))


def fails_without_project(case: Any) -> bool:  # noqa: ANN401
    """Whether the runtimes themselves, called directly, do not give what a test wants."""
    (inputs, expected), *_ = case.data_sets
    names = [entry.name for entry in case.model.graph.input]
    feeds = dict(zip(names, (np.asarray(x) for x in arrays(inputs)), strict=False))
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, onnx_backend.EVERY_HOST_LOADS)
    try:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found = session.run(None, feeds)
    except Exception:  # one of its many refusals
        found = ReferenceEvaluator(model).run(None, feeds)
    try:
        check_outputs(case, expected, list(found))
    except AssertionError:
        return True
    return False


def with_constant_parameters(case: Any) -> Any:  # noqa: ANN401
    """A test of a quantized operator that feeds its first input only; None for other tests."""
    if not QUANTIZED.intersection(node.op_type for node in case.model.graph.node):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, expected = case.data_sets[0]
    _, *others = model.graph.input
    for entry, value in zip(others, arrays(inputs)[1:], strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), entry.name))
    del model.graph.input[1:]
    return dataclasses.replace(case, model=model, data_sets=[(inputs[:1], expected)])


def check_outputs(case: Any, expected: Sequence[Any], found: Sequence[Any]) -> None:  # noqa: ANN401
    """Compare as onnx does.

    Raises:
        AssertionError: Something differs by more than the test allows.
    """
    Runner.assert_similar_outputs(arrays(expected), list(found), case.rtol, case.atol)


def arrays(values: Sequence[Any]) -> list[Any]:
    """Inputs and outputs of a test; some are given as protobuf tensors."""
    return [
        onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
        for value in values
    ]


def outcome_of(prepared: Prepared) -> Outcome:
    return Outcome.DEVICE if prepared.on_device else Outcome(prepared.host)


def operator_of(case: Any) -> str:  # noqa: ANN401
    """The operator of a test, also where its function body stands for it."""
    kinds = [f"{node.domain}.{node.op_type}".lstrip(".") for node in case.model.graph.node]
    if "_expanded" not in case.name and len(kinds) == 1:
        return kinds[0]
    named = {kind.rpartition(".")[2].lower(): kind for kind in OPERATORS}
    words = case.name.removeprefix("test_").removesuffix("_ver18").split("_")
    for length in range(len(words), 0, -1):
        if (name := "".join(words[:length])) in named:
            return named[name]
    return kinds[0]


OPERATORS: Final = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def page(results: Sequence[Result], constant: Sequence[Result]) -> str:
    """The report as Markdown.

    Args:
        results: Of all tests.
        constant: Of those whose parameters were made constants.
    """
    total = Counter(result.outcome for result in results)
    hosts = sum(total[outcome] for outcome in HOSTS)
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("onnx", "onnxruntime")
    )
    blocks: list[Block] = [
        Heading("Node tests of ONNX"),
        Lines(
            (
                f"{len(results)} tests of {versions}: {total[Outcome.DEVICE]} on the device, "
                f"{hosts} on the host, {total[Outcome.REFUSED]} refused, "
                f"{total[Outcome.EXCLUDED]} excluded, {total[Outcome.WRONG]} wrong, "
                f"{total[Outcome.CRASHED]} crashed.",
                "The tests feed weights, scales and zero points at run time, and a device program "
                "holds them: the second table has the quantized ones with those as constants.",
                "Host columns: the project's own arithmetic, onnxruntime, and onnx.reference for "
                "what onnxruntime refuses.",
            )
        ),
        _table(results, lambda result: result.operator),
        Heading("Quantized operators, their parameters constant"),
        Lines(("The same tests with every input but the first written into the model.",)),
        _table(constant, lambda result: result.operator),
        Heading("Refused"),
        _reasons(results, Outcome.REFUSED),
        Heading("Excluded"),
        _reasons(results, Outcome.EXCLUDED),
    ]
    return markdown(blocks)


def _table(results: Sequence[Result], key: Any) -> Table:  # noqa: ANN401
    counts: dict[str, Counter[Outcome]] = {}
    for result in results:
        counts.setdefault(key(result), Counter())[result.outcome] += 1
    shown = [o for o in Outcome if o not in BAD or any(c[o] for c in counts.values())]
    rows = [
        (name, str(sum(count.values())), *(str(count[o] or "") for o in shown))
        for name, count in sorted(counts.items())
    ]
    return Table(
        (("operator", "left"), ("tests", "right"), *((o.value, "right") for o in shown)),
        tuple(rows),
    )


def _reasons(results: Iterable[Result], outcome: Outcome) -> Items:
    names: dict[str, list[str]] = {}
    for result in results:
        if result.outcome is outcome:
            names.setdefault(result.detail, []).append(result.name)
    return Items(tuple((reason, tuple(tests)) for reason, tests in names.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    np.seterr(all="ignore")  # tests of infinities
    cases = node_tests()
    results = [run_test(case) for case in cases]
    changed = (with_constant_parameters(case) for case in cases)
    constant = [run_test(case) for case in changed if case is not None]
    text = page(results, constant)
    if given.output is None:
        print(text)
    else:
        write_text(given.output, text)
    bad = [result for result in (*results, *constant) if result.outcome in BAD]
    for result in bad:
        print(f"{result.name}: {result.outcome.value}: {result.detail}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
