# SPDX-License-Identifier: Apache-2.0
"""The state of an installation: versions, runtimes, and what each missing one costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass
from typing import Final

import akida_backend
from akida_backend.device_engine import engine_name
from akida_backend.document import Document, Heading, Items, Lines, Table
from akida_backend.engine import HOW_TO_GET, NOT_BUILT, engine_status
from akida_backend.report import SCHEMA_VERSION, Json
from akida_backend.runtime_host import installed_runtime, works_with_numpy


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution this package uses.

    Attributes:
        name: Of the distribution.
        module: What is imported.
        cost: What does not work without it.
        needed: Whether nothing works without it.
    """

    name: str
    module: str
    cost: str
    needed: bool = False


PACKAGES: Final = (
    Package("numpy", "numpy", "nothing runs", needed=True),
    Package("flatbuffers", "flatbuffers", "TFLite models cannot be read", needed=True),
    Package("tflite", "tflite", "TFLite models cannot be read", needed=True),
    Package("onnx", "onnx", "ONNX models cannot be read", needed=True),
    Package("rich", "rich", "no progress bars", needed=True),
    Package(
        "ai-edge-litert",
        "ai_edge_litert",
        "opaque operators cannot be executed, and host='runtime' is not available, "
        "unless tflite-runtime is installed",
    ),
    Package(
        "tflite-runtime",
        "tflite_runtime",
        "nothing where ai-edge-litert is installed",
    ),
    Package(
        "onnxruntime",
        "onnxruntime",
        "no execution provider, and opaque operators of ONNX models cannot be executed",
    ),
    Package(
        "ai-edge-quantizer",
        "ai_edge_quantizer",
        "`python -m akida_backend.quantize` cannot make INT8 models of float ones",
    ),
)


def diagnose() -> Json:
    """What ``doctor --json`` prints; described by schemas/doctor.json."""
    packages = []
    problems = []
    for package in PACKAGES:
        version = installed_version(package)
        packages.append(
            {
                "name": package.name,
                "version": version,
                "required": package.needed,
                "without_it": package.cost,
            }
        )
        if version is None and package.needed:
            problems.append(f"{package.name} is missing: {package.cost}")
        if version is not None and not works_with_numpy(package.module):
            problems.append(f"{package.name} {version} needs numpy below 2: pip install 'numpy<2'")
    runtime = installed_runtime()
    engine = engine_status()
    if engine.problem == NOT_BUILT:
        problems.append(
            "no native library: no execution provider, no delegate, and simulation by the slow "
            f"numpy reference. {HOW_TO_GET}"
        )
    elif engine.problem is not None:
        problems.append(f"native engine: {engine.problem}")
    return {
        "schema_version": SCHEMA_VERSION,
        "akida_backend": akida_backend.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": packages,
        "simulator": engine_name(),
        "engine": {
            "library": None if engine.library is None else str(engine.library),
            "version": engine.version,
            "instruction_set": engine.instruction_set,
            "instruction_sets": [
                {"name": name, "problem": problem}
                for name, problem in engine.instruction_sets.items()
            ],
            "problem": engine.problem,
        },
        "execution_provider": _execution_provider(),
        "host_runtime": None if runtime is None else str(runtime),
        "problems": problems,
    }


def _execution_provider() -> Json:
    if importlib.util.find_spec("onnxruntime") is None:
        return {"devices": [], "problem": "onnxruntime is not installed"}
    from akida_backend.onnxruntime import provider_status

    status = provider_status()
    return {"devices": list(status.devices), "problem": status.problem}


def installed_version(package: Package) -> str | None:
    """Version of an installed package; it is not imported."""
    if importlib.util.find_spec(package.module) is None:
        return None
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def diagnosis_document(diagnosis: Json) -> Document:
    """The diagnosis for people."""
    rows = tuple(
        (
            package["name"],
            package["version"] or "missing",
            "" if package["version"] else f"without it: {package['without_it']}",
        )
        for package in diagnosis["packages"]
    )
    problems = diagnosis["problems"]
    return [
        Lines(
            (
                f"akida-backend {diagnosis['akida_backend']}, Python {diagnosis['python']}, "
                f"{diagnosis['platform']}, {diagnosis['processors']} processors",
                f"Simulator: {diagnosis['simulator']}.",
                *_engine_lines(diagnosis["engine"]),
                _provider_line(diagnosis["execution_provider"]),
                f"Host operators: reference arithmetic; runtime: "
                f"{diagnosis['host_runtime'] or 'none installed'}.",
            )
        ),
        Table((("package", "left"), ("version", "left"), ("", "fold")), rows),
        Heading("Problems" if problems else "No problems found."),
        Items(tuple((problem, ()) for problem in problems)),
    ]


def _engine_lines(engine: Json) -> tuple[str, ...]:
    if engine["library"] is None:
        return (
            f"Native engine: none, {engine['problem']}; "
            "the numpy reference gives the same integers, slowly.",
        )
    sets = ", ".join(
        entry["name"] + (f" (no: {entry['problem']})" if entry["problem"] else "")
        for entry in engine["instruction_sets"]
    )
    return (
        f"Native engine: {engine['version']}, {engine['library']}.",
        f"Instruction sets: {sets}; used: {engine['instruction_set']}.",
    )


def _provider_line(provider: Json) -> str:
    seen = ", ".join(provider["devices"])
    if provider["problem"]:
        return f"In onnxruntime: no provider, {provider['problem']}."
    return f"In onnxruntime, get_ep_devices(): {seen}."
