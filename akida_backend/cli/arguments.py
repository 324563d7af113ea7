# SPDX-License-Identifier: Apache-2.0
"""Commands and their flags; the flags of compile and run options come from `Options`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NoReturn, get_args, get_origin, get_type_hints

from akida_backend.errors import InputError
from akida_backend.options import Options, unknown
from akida_backend.writing import spare

EPILOG: Final = "exit codes: 0 all asked for holds; 1 a threshold or --fallback failed; 2 bad input"


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n  see: {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its flags; ``namespace.command`` runs it.

    Raises:
        InputError: Unknown command or flag, with the nearest name; or a value of a wrong form.
    """
    parser, commands = _build()
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first is not None and first not in commands:
        raise InputError(unknown("command", first, tuple(commands)))
    parsed, rest = parser.parse_known_args(arguments)
    if rest:
        flags = tuple(f for f in commands[parsed.name]._option_string_actions if f[:2] == "--")
        flag = next((word for word in rest if word.startswith("-")), None)
        if flag is None:
            raise InputError(f"unexpected argument '{rest[0]}'")
        raise InputError(unknown("option", flag.partition("=")[0], flags))
    _spare_inputs(parsed)
    _one_length_per_axis(parsed)
    parsed.device_given = getattr(parsed, "device", None)  # a saved plan has its own
    parsed.device = parsed.device_given or Options().device
    return parsed


_INPUTS: Final = ("model", "data", "calibration")
_OUTPUTS: Final = ("out", "json")


def _spare_inputs(parsed: argparse.Namespace) -> None:
    """No output is an input, or another output.

    Raises:
        InputError: One is.
    """
    named = [getattr(parsed, name, None) for name in _OUTPUTS]
    outputs = [Path(name) for name in named if name is not None and name != "-"]
    for output in outputs:
        spare(output, [getattr(parsed, name, None) for name in _INPUTS])
    kept = [os.path.realpath(path) for path in outputs if path.is_file() or not path.exists()]
    if len(set(kept)) < len(kept):
        raise InputError(f"-o and --json both name {outputs[0]}\n  Give each a file of its own.")


def options_of(parsed: argparse.Namespace, **fixed: object) -> dict[str, object]:
    """The compile and run options that were given, as `Options.parse` takes them."""
    given: dict[str, object] = {}
    for option in dataclasses.fields(Options):
        value = getattr(parsed, option.name, None)
        if option.name == "device" or value is None or value is False:
            continue
        if isinstance(value, list):  # names may hold commas themselves
            value = [entry for text in value for entry in re.split(r",(?=type:|name:|op:)", text)]
        given[option.name] = value
    return {**given, **fixed}


def _build() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="akida-backend",
        description="Runs INT8 models on a simulated BrainChip Akida device, the rest on the CPU.",
        epilog=EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    sub = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    commands = {}
    for name, help_text, fill in _COMMANDS:
        command = sub.add_parser(
            name, help=help_text, description=help_text, epilog=EPILOG, allow_abbrev=False
        )
        fill(command)
        command.add_argument(
            "--json", metavar="FILE", help="also write the result as JSON; - prints only that"
        )
        command.set_defaults(command=_lazily(name))
        commands[name] = command
    return parser, commands


def _lazily(name: str) -> Callable[[argparse.Namespace], int]:
    def run(parsed: argparse.Namespace) -> int:
        module = importlib.import_module(f"akida_backend.cli.{name}_command")
        return int(module.run(parsed))

    return run


class _Version(argparse.Action):
    """Prints the version, which only then is looked up."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import akida_backend

        parser.exit(message=f"akida-backend {akida_backend.__version__}\n")


def _demo(parser: argparse.ArgumentParser) -> None:
    _model(parser, "model file; by default the embedded network", nargs="?")
    _data(parser)
    _options(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="of what is printed (default: text)",
    )
    parser.add_argument(
        "--min-mac-fraction",
        type=_fraction,
        metavar="F",
        help="fail (exit 1) if a smaller share of the MACs than F (0 to 1) runs on the device",
    )
    parser.add_argument(
        "--check-partitions",
        type=_count,
        metavar="N",
        help="fail (exit 1) if there are more than N device segments",
    )
    _options(parser)


def _advise(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="of what is printed (default: text)",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="write the model with every rewrite that changes no value, proven equal to the "
        "original on random inputs, to the file of -o",
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="file for --apply, in the format of the model"
    )
    without = ("emulation", "threads", "host", "fallback", "allow_uncalibrated")
    _options(parser, without=without)


def _run(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _data(parser)
    parser.add_argument("-o", "--out", metavar="OUT.npz", help="write outputs by name")
    _options(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _data(parser)
    parser.add_argument("--output", metavar="NAME", help="output to compare (default: the first)")
    parser.add_argument(
        "--per-layer", action="store_true", help="also compare every device tensor with its source"
    )
    parser.add_argument(
        "--with",
        dest="runtimes",
        type=_names,
        default=(),
        metavar="NAMES",
        help="run the original in installed runtimes as well, one row each: ort, ort-noopt, "
        "litert, litert-ref, tflite-runtime, separated by commas",
    )
    parser.add_argument(
        "--min-agreement",
        type=_fraction,
        metavar="F",
        help="fail (exit 1) if the device picks the source's class for a smaller share than F; on "
        "Akida 1.0 with fewer than 256 samples, a miss within one standard error counts as met",
    )
    parser.add_argument(
        "--max-accuracy-drop",
        type=_points,
        metavar="P",
        help="fail (exit 1) if the accuracy drops by more than P percentage points; few samples "
        "as above",
    )
    _options(parser)


def _compile(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="OUT.akp",
        required=True,
        help="write the plan, which run, compare, inspect and InferenceSession take like a model; "
        "OUT.onnx, OUT.tflite: for onnxruntime and TFLite runtimes with this package's plug-ins",
    )
    _options(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument(
        "--threads", type=_positive, default=1, metavar="N", help="of every side (default: 1)"
    )
    parser.add_argument(
        "--batch", type=_positive, default=1, metavar="N", help="samples of one call (default: 1)"
    )
    parser.add_argument(
        "--against",
        metavar="litert,ort",
        help="runtimes that run the original beside it (default: those that are installed)",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="time to spend (default: 3)"
    )
    _options(parser, without=("threads",))


def _ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default=Options().device, metavar="NAME", help=_HELP["device"])


def _nothing(_: argparse.ArgumentParser) -> None:
    pass


_COMMANDS: Final[tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...]] = (
    ("demo", "Accuracy and placement of the embedded network, or of a model.", _demo),
    ("inspect", "Where every operator would run, and why not on the device.", _inspect),
    ("advise", "The smallest changes that let a device take more of a model.", _advise),
    ("run", "Run a model and write its outputs.", _run),
    ("compare", "Compare the device's results with the source model's.", _compare),
    ("compile", "Compile a model into a file that runs without it.", _compile),
    ("bench", "Time the simulation, and the runtimes that run the original.", _bench),
    ("devices", "List the devices a model can be compiled for.", _nothing),
    ("ops", "List the operators and what becomes of them on a device.", _ops),
    ("doctor", "Show versions, and what is missing and what that costs.", _nothing),
)


def _model(parser: argparse.ArgumentParser, text: str = "model file", **how: str) -> None:
    parser.add_argument("model", help=text, **how)  # type: ignore[arg-type]
    parser.add_argument(
        "--dimension",
        action="append",
        type=_dimension,
        default=[],
        metavar="NAME=LENGTH",
        help="length of an axis that an ONNX model's inputs leave open; repeatable",
    )


def _one_length_per_axis(parsed: argparse.Namespace) -> None:
    """Of two lengths for one axis, one is a mistake.

    Raises:
        InputError: An axis is given twice.
    """
    names = [name for name, _ in getattr(parsed, "dimension", ())]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            raise InputError(f"--dimension: axis '{name}' is given twice\n  Give it one length.")


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".npz or .npy: the inputs by name or x, samples first, and perhaps class indices y "
        "(default: random samples)",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="use the first N samples only")


def _options(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """One flag per field of `Options`; `Options.parse` judges the values."""
    group = parser.add_argument_group("compile and run options")
    hints = get_type_hints(Options)
    for option in dataclasses.fields(Options):
        if option.name in without:
            continue
        flag = f"--{option.name.replace('_', '-')}"
        text = _HELP[option.name]
        hint = hints[option.name]
        if option.type == "bool":
            group.add_argument(flag, action="store_true", default=None, help=text)
        elif isinstance(option.default, tuple):
            group.add_argument(flag, action="append", metavar="type:T|name:N|op:I", help=text)
        elif get_origin(hint) is Literal:
            choices = f"{{{','.join(get_args(hint))}}}"
            group.add_argument(flag, metavar=choices, help=_with_default(text, option.default))
        elif option.name == "device":
            group.add_argument(
                flag,
                metavar="NAME",
                help=_with_default(f"{text} 'all': one row per device", option.default),
            )
        else:
            metavar = "N" if isinstance(option.default, int) else "FILE"
            group.add_argument(flag, metavar=metavar, help=_with_default(text, option.default))


def _with_default(text: str, default: object) -> str:
    return text if default is None else f"{text} (default: {default})"


def _attribute_texts(documented: type) -> Mapping[str, str]:
    """The sentences under ``Attributes:`` of a class, by attribute."""
    _, _, section = (documented.__doc__ or "").partition("Attributes:")
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r" {8}(\w+): (.*)", line)
        if start:
            name, texts[start[1]] = start[1], start[2]
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    # argparse reads % as a format, and backquotes only clutter a terminal.
    return {name: text.replace("`", "").replace("%", "%%") for name, text in texts.items()}


_HELP: Final = {
    **{option.name: "" for option in dataclasses.fields(Options)},
    **_attribute_texts(Options),
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"needs a number from 0 to 1, got '{text}'")
    return value


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"needs percentage points from 0 to 100, got '{text}'")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 3600.0:
        raise argparse.ArgumentTypeError(f"needs more than 0 and at most 3600, got '{text}'")
    return value


def _dimension(text: str) -> tuple[str, int]:
    name, _, length = text.rpartition("=")
    if not name or not length.isascii() or not length.isdigit() or len(length) > 9:
        raise argparse.ArgumentTypeError(f"needs the name of an axis and a length, got '{text}'")
    return name, int(length)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 0, got '{text}'")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"needs a whole number of at least 1, got '{text}'")
    return int(text)
