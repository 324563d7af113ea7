# SPDX-License-Identifier: Apache-2.0
"""How far a device's results lie from the source model's, and what accuracy that costs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.calibration_data import (
    Data,
    Samples,
    calibration_samples,
    digests,
    first_samples,
    random_samples,
    read_samples,
)
from akida_backend.ceiling import unrounded_output
from akida_backend.compiled import plan_of, with_run_options
from akida_backend.compiler import SUPPORTED_GENERATIONS
from akida_backend.compiler import compile as compile_model
from akida_backend.devices import Device, devices
from akida_backend.devices import device as find_device
from akida_backend.errors import InputError
from akida_backend.execute import Execution, Executor, parts, run_source, sample_count
from akida_backend.graph import AnyArray, Dequantize, Graph, Quantize, Reshape, Softmax, Tensor
from akida_backend.loading import load
from akida_backend.options import Options, unknown
from akida_backend.original_runtimes import OriginalRuntime, chosen_runtimes, open_model
from akida_backend.plan import Plan
from akida_backend.report import (
    SCHEMA_VERSION,
    Json,
    model_json,
    quantizer_json,
    summary_json,
)
from akida_backend.runtime_host import host_name

Reals = NDArray[np.float64]

ALL_DEVICES: Final = "all"
DECISIVE_STEPS: Final = 2
FEW_SAMPLES: Final = 256  # below, a sample more or less shows
RUNTIME_ROW: Final = "runtime"  # stands for the emulation in rows of the original in a runtime
_NO_METRICS: Final[Mapping[str, None]] = {
    "accuracy": None,
    "accuracy_error": None,
    "agreement_with_source": None,
    "agreement_error": None,
    "decisive_agreement": None,
    "cosine": None,
    "sqnr_db": None,
    "max_abs_diff": None,
    "identical": None,
}


def compare(
    model: str | os.PathLike[str] | bytes | Graph | Plan,
    data: Data | Samples | None = None,
    *,
    device: str | Device | None = None,
    limit: int | None = None,
    output: str | None = None,
    per_layer: bool = False,
    runtimes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    **options: object,
) -> Json:
    """Run a model as it is and on the device, and compare.

    Args:
        model: Path, bytes, Graph or Plan, also saved ones. A plan has its own device and
            options; emulation, host and fallback may change.
        data: .npz or .npy path, array, or arrays by name: the inputs by name or ``x``, and
            perhaps class indices ``y``. None: seeded random samples, without accuracy.
        device: A device or its name, or ``all``; by default the plan's, or ``akida2``.
        limit: Samples used at most, the first ones.
        output: Name of the output that is compared; by default the first.
        per_layer: Also compare every device tensor with the source tensor of its name.
        runtimes: Where to run the original model as well: ``ort``, ``ort-noopt`` (no
            optimisation), ``litert``, ``litert-ref`` (reference kernels), ``tflite-runtime``. One
            row for each that is installed and runs models of this kind, a note for each other.
        progress: Called with the samples done and the samples in all.
        options: Fields of `Options`.

    Returns:
        What ``compare --json`` prints; schemas/compare.json describes it.

    Raises:
        ImportModelError: The model cannot be read.
        ProgramError: The saved plan is damaged or of a newer version.
        InputError: An unknown name, or data that does not fit.
        FallbackError: `fallback` forbids what would stay on the host.
        UnsupportedOperationError: A runtime does not load the model.
    """
    plans = _plans(model, device, options)
    if per_layer and len(plans) != 1:
        raise InputError("per_layer compares one device; name one instead of 'all'")
    graph, chosen = plans[0].graph, plans[0].options
    name = _output_name(graph, output)
    samples, notes, random = _samples(plans[0], data, limit)
    if plans[0].compiled_by and chosen.calibration is not None and not random:
        notes.append(
            f"the saved plan was calibrated on '{chosen.calibration}': on the same samples its "
            "figures are flattering"
        )
    chosen_ones, missing = chosen_runtimes(graph, runtimes)
    notes += missing
    study = _Study(graph, plans, name, per_layer, chosen_ones)
    total = sample_count(graph, samples.feeds)
    done = 0
    for part in parts(graph, samples.feeds):
        study.add(part)
        done += sample_count(graph, part)
        if progress is not None:
            progress(done, total)
    results = study.results(samples.labels, samples.origin)
    idle = [plan.device.name for plan in plans if not plan.programs]
    if idle:
        notes.append(
            f"nothing of the model runs on {', '.join(idle)}: its figures compare the source with "
            "itself; inspect says why"
        )
    if results[1]["cosine"] is None:
        notes.append("no ceiling: the compared tensor is not written by a convolution or product")
    report: Json = {
        "schema_version": SCHEMA_VERSION,
        "model": model_json(graph),
        "device": ALL_DEVICES if len(plans) > 1 else plans[0].device.name,
        "placement": [
            {"device": plan.device.name, "summary": summary_json(plan)} for plan in plans
        ],
        "host": host_name(graph, chosen.host),
        "data": {
            "origin": samples.origin,
            "random": random,
            "labels": samples.labels is not None,
        },
        "samples": total,
        "output": name,
        "tensor": study.chain[-1],
        "decisive_samples": study.decisive,
        "results": results,
    }
    if per_layer:
        report["layers"] = study.layers()
    chosen_steps = [entry for plan in plans for entry in quantizer_json(plan)]
    if chosen_steps:
        report["quantizer"] = chosen_steps
    report["notes"] = notes
    return report


def _plans(
    model: str | os.PathLike[str] | bytes | Graph | Plan,
    device: str | Device | None,
    options: Mapping[str, object],
) -> list[Plan]:
    plan = plan_of(model)
    if plan is not None:
        return [with_run_options(plan, device, options)]
    graph = model if isinstance(model, Graph) else load(model)
    wanted = device or Options().device
    every = isinstance(wanted, str) and wanted.casefold() == ALL_DEVICES
    names = comparable_devices(options) if every else (wanted,)
    return [compile_model(graph, device=name, **options) for name in names]


def supported_devices() -> tuple[str, ...]:
    """Names of the devices the compiler has programs for."""
    return tuple(d.name for d in devices() if d.generation in SUPPORTED_GENERATIONS)


def comparable_devices(options: Mapping[str, object]) -> tuple[str, ...]:
    """The supported devices that a model can be compiled for with the given options."""
    chosen = Options.parse(options)
    calibrated = chosen.calibration is not None or chosen.allow_uncalibrated
    return tuple(n for n in supported_devices() if calibrated or find_device(n).generation > 1)


def _output_name(graph: Graph, output: str | None) -> str:
    if output is None:
        return graph.outputs[0]
    if output not in graph.outputs:
        raise InputError(unknown("output", output, graph.outputs))
    return output


def _samples(
    plan: Plan, data: Data | Samples | None, limit: int | None
) -> tuple[Samples, list[str], bool]:
    """What to evaluate on, what must be said about it, and whether it is random."""
    graph = plan.graph
    if limit is not None and limit < 1:
        raise InputError(f"limit needs a number of at least 1, got {limit}")
    if data is None:
        samples = random_samples(graph)
        notes = ["random inputs: figures on real data differ, and there is no accuracy"]
        return first_samples(graph, samples, limit), notes, True
    samples = read_samples(graph, data)
    notes = list(samples.notes)
    used = _used_for_calibration(plan)
    if used:
        total, samples = samples.count, samples.without(used, graph.batch)
        if not samples.count:
            raise InputError(
                f"{samples.origin}: all {total} samples are used for calibration\n"
                "  lower calibration_limit or give other data"
            )
        if samples.count < total:
            notes.append(
                f"{total - samples.count} of {total} samples were used for calibration and are "
                "left out"
            )
    return first_samples(graph, samples, limit), notes, False


def _used_for_calibration(plan: Plan) -> Collection[bytes]:
    """Digests of the samples that chose the scales, as far as they are at hand."""
    options = plan.options
    if options.calibration is None:
        return ()
    try:
        samples = calibration_samples(plan.graph, options.calibration, options.calibration_limit)
    except InputError:
        if plan.compiled_by:  # a saved plan only knows their file's name
            return ()
        raise
    return frozenset(digests(samples.feeds))


def score_chain(graph: Graph, output: str) -> tuple[str, ...]:
    """Tensors from an output back to the scores that a trailing softmax would hide.

    Softmax, reshaping and re-coding are walked through; the last name is the tensor whose
    producer does something else.
    """
    chain = [output]
    while True:
        match graph.producers.get(chain[-1]):
            case Softmax(input=name) | Reshape(input=name):
                chain.append(name)
            case Quantize(input=name) | Dequantize(input=name):
                chain.append(name)
            case _:
                return tuple(chain)


def _finite(value: float) -> float | None:
    """A figure JSON can hold; float models may give infinities."""
    return float(value) if np.isfinite(value) else None


@dataclass(slots=True)
class _Difference:
    """Sums over all samples of one tensor against its source."""

    signal: float = 0.0
    own: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    largest: float = 0.0

    def add(self, source: Reals, other: Reals) -> None:
        error = other - source
        self.signal += float(np.vdot(source, source))
        self.own += float(np.vdot(other, other))
        self.product += float(np.vdot(source, other))
        self.noise += float(np.vdot(error, error))
        self.largest = max(self.largest, float(np.abs(error).max(initial=0.0)))

    @property
    def sqnr_db(self) -> float | None:
        if self.noise == 0.0 or self.signal == 0.0:
            return None
        return _finite(10.0 * np.log10(self.signal / self.noise))

    @property
    def cosine(self) -> float | None:
        length = np.sqrt(self.signal) * np.sqrt(self.own)
        return _finite(min(1.0, max(-1.0, self.product / length))) if length else None


@dataclass(slots=True)
class _Row:
    """One line of the results: real values of the scores and of the output, part by part."""

    name: str
    emulation: str
    scores: list[Reals] = field(default_factory=list)
    outputs: list[Reals] = field(default_factory=list)


class _Study:
    """Everything that is collected while the samples run."""

    def __init__(
        self,
        graph: Graph,
        plans: Sequence[Plan],
        output: str,
        per_layer: bool,
        runtimes: Sequence[OriginalRuntime],
    ) -> None:
        self.graph = graph
        self.output = output
        walked = score_chain(graph, output)
        behind_softmax = [
            i for i, name in enumerate(walked) if isinstance(graph.producers.get(name), Softmax)
        ]
        # What a softmax gives stands for other numbers than what goes into it.
        self.chain = walked[behind_softmax[-1] + 1 :] if behind_softmax else walked
        self.decisive: int | None = None
        self._plans = plans
        self._executors = [Executor(plan) for plan in plans]
        self._source = _Row("source", "source")
        self._ceiling = _Row("ceiling", "source")
        self._rows = [_Row(plan.device.name, plan.options.emulation) for plan in plans]
        self._originals = [
            (open_model(runtime, graph, [self.chain[-1]]), _Row(runtime.name, RUNTIME_ROW))
            for runtime in runtimes
        ]
        self._layers = {
            layer.output: _Difference()
            for plan in plans
            for program in plan.programs
            for layer in program.layers
            if per_layer
            and layer.output in graph.producers
            and self._executors[0].emulation == "device"
        }

    def add(self, part: Mapping[str, AnyArray]) -> None:
        scores = self.chain[-1]
        producer = self.graph.producers.get(scores)
        needed = {scores, *self._layers, *(self.graph.activations_of(producer) if producer else ())}
        source = run_source(self.graph, part, tensors=needed)
        self._source.scores.append(self._by_sample(scores, source[scores]))
        self._source.outputs.append(self._by_sample(self.output, source[self.output]))
        ceiling = unrounded_output(producer, self.graph, source) if producer else None
        if ceiling is not None:
            self._ceiling.scores.append(ceiling.reshape(self._source.scores[-1].shape))
        for plan, executor, row in zip(self._plans, self._executors, self._rows, strict=True):
            ports = {p.output.tensor: p.output.device for p in plan.programs}
            port = next((ports[name] for name in reversed(self.chain) if name in ports), None)
            wanted = {*self._layers, *([port] if port is not None else [])}
            execution = executor.run(part, tensors=self.chain, device_tensors=wanted)
            row.scores.append(self._device_scores(execution, port))
            row.outputs.append(self._by_sample(self.output, execution.values[self.output]))
            for name, difference in self._layers.items():
                real = execution.reals[name]
                original = _reals(self.graph.tensors[name], source[name])
                difference.add(original.reshape(len(real), -1), real.reshape(len(real), -1))

        for opened, row in self._originals:
            values = opened.run(part)
            row.outputs.append(self._by_sample(self.output, values[self.output]))
            if scores in values:
                row.scores.append(self._by_sample(scores, values[scores]))

    def _device_scores(self, execution: Execution, port: str | None) -> Reals:
        """The scores as they leave the device, or as the host computed them."""
        shape = self._source.scores[-1].shape
        if port is not None and port in execution.reals:
            return execution.reals[port].reshape(shape)
        name = next(name for name in reversed(self.chain) if name in execution.values)
        return self._by_sample(name, execution.values[name]).reshape(shape)

    def _by_sample(self, name: str, stored: AnyArray) -> Reals:
        real = _reals(self.graph.tensors[name], stored)
        batch = self.graph.batch
        if batch is None or (real.ndim and len(real) == batch):
            return real.reshape(len(real), -1)
        return real.reshape(1, -1)

    def results(self, labels: NDArray[np.int64] | None, origin: str) -> list[Json]:
        source = np.concatenate(self._source.scores)
        outputs = np.concatenate(self._source.outputs)
        scores_judge, output_judge = (
            _Judge.of(self.graph, self.output, name, values, labels, origin)
            for name, values in ((self.chain[-1], source), (self.output, outputs))
        )
        self.decisive = None if scores_judge.decisive is None else int(scores_judge.decisive.sum())
        rows: list[Json] = []
        originals = (row for _, row in self._originals)
        for row in (self._source, self._ceiling, *self._rows, *originals):
            rows.append(
                {
                    "name": row.name,
                    "emulation": row.emulation,
                    **(
                        scores_judge.metrics(np.concatenate(row.scores))
                        if row.scores
                        else _NO_METRICS
                    ),
                    "output": output_judge.metrics(np.concatenate(row.outputs))
                    if row.outputs
                    else dict(_NO_METRICS),
                }
            )
        for metrics in (rows[0], rows[0]["output"]):
            metrics["agreement_error"] = None  # with itself
        return rows

    def layers(self) -> list[Json]:
        return [
            {
                "index": self.graph.producers[name].location.index,
                "name": name,
                "sqnr_db": difference.sqnr_db,
                "max_abs_diff": _finite(difference.largest),
            }
            for name, difference in self._layers.items()
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """The source's values of one tensor, against which rows are judged.

    Attributes:
        source: Real values, (samples, values).
        labels: Class per sample, if values are class scores and labels are known.
        is_scores: Whether the values are one score per class.
        decisive: Samples whose two largest scores lie far enough apart.
    """

    source: Reals
    labels: NDArray[np.int64] | None
    is_scores: bool
    decisive: NDArray[np.bool_] | None

    @classmethod
    def of(
        cls,
        graph: Graph,
        output: str,
        name: str,
        source: Reals,
        labels: NDArray[np.int64] | None,
        origin: str,
    ) -> _Judge:
        tensor = graph.tensors[name]
        if _are_positions(graph, output) or not _are_scores(graph, tensor):
            return cls(source, None, is_scores=False, decisive=None)
        _, classes = source.shape
        if labels is not None and not (
            len(labels) == len(source) and labels.min() >= 0 and labels.max() < classes
        ):
            raise InputError(
                f"{origin}: labels 'y' do not fit output '{name}'\n"
                f"  expected {len(source)} class indices 0..{classes - 1}; "
                f"found {len(labels)}, {labels.min()}..{labels.max()}"
            )
        decisive = None
        if tensor.is_quantized and tensor.quantization is not None:
            step = tensor.quantization.single_scale
            second, first = np.partition(source, -2, axis=1)[:, -2:].T
            # Half a step of slack: margins are whole steps but for float rounding.
            decisive = (first - second) / step > DECISIVE_STEPS - 0.5
        return cls(source, labels, is_scores=True, decisive=decisive)

    def metrics(self, values: Reals) -> dict[str, Any]:
        difference = _Difference()
        difference.add(self.source, values)
        accuracy = agreement = decisive = None
        if self.is_scores:
            chosen = values.argmax(axis=1)  # the first of equal ones
            same = chosen == self.source.argmax(axis=1)
            agreement = float(same.mean())
            if self.decisive is not None and self.decisive.any():
                decisive = float(same[self.decisive].mean())
            if self.labels is not None:
                accuracy = float((chosen == self.labels).mean())
        return {
            "accuracy": accuracy,
            "accuracy_error": standard_error(accuracy, len(values)),
            "agreement_with_source": agreement,
            "agreement_error": standard_error(agreement, len(values)),
            "decisive_agreement": decisive,
            "cosine": difference.cosine,
            "sqnr_db": difference.sqnr_db,
            "max_abs_diff": _finite(difference.largest),
            "identical": difference.noise == 0.0,
        }


def standard_error(share: float | None, samples: int) -> float | None:
    """Of a share p of few (n) samples, sqrt(p (1 - p) / n); None of as many as need none.

    At 0 and 1 that would be 0, as if 3 of 3 samples proved a share of 1: there p is the rule of
    succession's (k + 1) / (n + 2) with k = 0 or n.
    """
    if share is None or samples >= FEW_SAMPLES:
        return None
    least = 1.0 / (samples + 2)
    known = min(max(share, least), 1.0 - least)
    return math.sqrt(known * (1.0 - known) / samples)


def _are_scores(graph: Graph, tensor: Tensor) -> bool:
    """One number per class: a vector per sample that is not the input given back."""
    lengths = [length for length in tensor.shape[1:] if length != 1]
    if len(lengths) != 1 or not (tensor.is_quantized or tensor.dtype.is_float):
        return False
    inputs = {graph.tensors[name].values_per_sample for name in graph.inputs}
    rebuilt = graph.batch is None and tensor.values_per_sample in inputs
    return not rebuilt and (graph.batch is None or tensor.shape[0] == graph.batch)


def _are_positions(graph: Graph, output: str) -> bool:
    """One number for each of many positions, a column (positions, 1), as detectors give."""
    walked = (graph.tensors[name].shape for name in score_chain(graph, output))
    return any(len(shape) == 3 and shape[2] == 1 for shape in walked)


def _reals(tensor: Tensor, stored: AnyArray) -> Reals:
    if not tensor.is_quantized or tensor.quantization is None:
        return stored.astype(np.float64)
    scales = tensor.quantization
    return (stored.astype(np.float64) - scales.single_zero_point) * scales.single_scale


def device_rows(report: Json) -> Iterator[Json]:
    """The rows of devices, without source, ceiling and the original in runtimes."""
    yield from (row for row in report["results"][2:] if row["emulation"] != RUNTIME_ROW)
