# SPDX-License-Identifier: Apache-2.0
"""Fetch the public models that README and the benchmarks name, checked by SHA-1.

    python tools/fetch_models.py                     # all of them, to ./models
    python tools/fetch_models.py micronet-vww2 -o .  # one

The folder in the environment variable AKIDA_BACKEND_MODELS (with its sub-folders) is searched
first, whatever the files in it are called; only what it lacks is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEARCH_VARIABLE: Final = "AKIDA_BACKEND_MODELS"
TIMEOUT_SECONDS: Final = 60


class FetchError(Exception):
    """A model could not be had, or is not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Model:
    """A published file: `name` on the command line, `file` in the output folder."""

    name: str
    file: str
    sha1: str
    size: int  # bytes
    url: str


def github(repository: str, commit: str, path: str) -> str:
    """Address of a file at a commit; GitHub redirects it to large-file storage where needed."""
    return f"https://github.com/{repository}/raw/{commit}/{path}"


def _mlperf(name: str, path: str, sha1: str, size: int) -> Model:
    """A reference model of MLPerf Tiny (Apache-2.0)."""
    commit = "1afd2c9820f795965a6134facd0b4dfae41ef23f"
    url = github("mlcommons/tiny", commit, f"benchmark/training/{path}")
    return Model(f"mlperf-{name}", f"mlperf_{name}_int8.tflite", sha1, size, url)


def _coral(name: str, path: str, sha1: str, size: int) -> Model:
    """A network of Coral's test data (Apache-2.0), quantized to uint8."""
    commit = "104342d2d3480b3e66203073dac24f4e2dbb4c41"
    return Model(
        f"coral-{name}", f"coral_{path}", sha1, size, github("google-coral/test_data", commit, path)
    )


MODELS: Final = (
    # MicroNet VWW-2 of Arm's model zoo (Apache-2.0), https://arxiv.org/abs/2010.11267
    Model(
        "micronet-vww2",
        "micronet_vww2_int8.tflite",
        "5d887ca438c0a7feeed3c8c22dce99b55565c8ea",
        280_384,
        github(
            "ARM-software/ML-zoo",
            "31525d165cb062884305be167e06418745f883a7",
            "models/visual_wake_words/micronet_vww2/tflite_int8/vww2_50_50_INT8.tflite",
        ),
    ),
    _mlperf(
        "vww",
        "visual_wake_words/trained_models/vww_96_int8.tflite",
        "ccfa03d8dabac224bb38676a619d8733f728b45c",
        333_288,
    ),
    _mlperf(
        "kws",
        "keyword_spotting/trained_models/kws_ref_model.tflite",
        "a0bac2f750405ce3dcf3d5383e7bdd6334e57051",
        53_936,
    ),
    _mlperf(
        "resnet8",
        "image_classification/trained_models/pretrainedResnet_quant.tflite",
        "cd5db935c786ddccda746ee0dde9214eac966805",
        98_496,
    ),
    _mlperf(
        "ad01",
        "anomaly_detection/trained_models/ad01_int8.tflite",
        "403b8c5ac37a4923688c6099dcf5a0acc4cf0b3b",
        276_976,
    ),
    _coral(
        "mobilenet-v1",
        "mobilenet_v1_0.75_192_quant.tflite",
        "4104bb48bd4cd783227bb084897c6695b25f0317",
        2_652_542,
    ),
    _coral(
        "mobilenet-v2",
        "mobilenet_v2_1.0_224_quant.tflite",
        "a1cdddd766e3d152a33763f2cb5af1394ae30326",
        3_610_798,
    ),
)


def sha1_of(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def holds(path: Path, model: Model) -> bool:
    """Whether the file at `path` is the model; the size spares reading most others."""
    return (
        path.is_file()
        and path.stat().st_size == model.size
        and sha1_of(path.read_bytes()) == model.sha1
    )


def find(model: Model, folder: Path) -> Path | None:
    """The model anywhere below `folder`, under any name."""
    return next((path for path in sorted(folder.rglob("*")) if holds(path, model)), None)


def download(model: Model) -> bytes:
    """Bytes of the model from its address.

    Raises:
        FetchError: No answer, or not the file with the model's SHA-1.
    """
    try:
        with urllib.request.urlopen(model.url, timeout=TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read(model.size + 1)
    except OSError as error:
        raise FetchError(
            f"{model.name}: no download from {model.url} ({error})\n"
            f"  Download it by hand and set {SEARCH_VARIABLE} to its folder."
        ) from error
    if sha1_of(content) != model.sha1:
        size = f"more than {model.size}" if len(content) > model.size else f"{len(content)}"
        raise FetchError(
            f"{model.name}: {model.url} gave {size} bytes with SHA-1 {sha1_of(content)}, "
            f"expected {model.size} with {model.sha1}\n"
            f"  Find a copy with that SHA-1 and set {SEARCH_VARIABLE} to its folder."
        )
    return content


def write(path: Path, content: bytes) -> None:
    """Write all or nothing: another reader never sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
        partial = Path(f.name)
        try:
            f.write(content)
            f.close()
            partial.chmod(0o644)
            partial.replace(path)
        except BaseException:
            f.close()
            partial.unlink(missing_ok=True)
            raise


def fetch(model: Model, output: Path, search: Path | None) -> str:
    """Make sure `output` holds the model; return a sentence saying where it came from."""
    target = output / model.file
    if holds(target, model):
        return f"{target}: already there"
    known = None if search is None else find(model, search)
    if known is not None:
        write(target, known.read_bytes())
        return f"{target}: copied from {known}"
    write(target, download(model))
    return f"{target}: downloaded from {model.url}"


def main(arguments: Sequence[str] | None = None, models: Sequence[Model] = MODELS) -> int:
    parser = argparse.ArgumentParser(description="Fetch public models, checked by SHA-1.")
    names = [model.name for model in models]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names)}"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("models"), help="folder to write to"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"no model named {', '.join(unknown)}; there are {', '.join(names)}")

    folder = os.environ.get(SEARCH_VARIABLE)
    if folder and not Path(folder).is_dir():
        parser.error(f"{SEARCH_VARIABLE} is {folder}, which is not a folder")
    failed = False
    for model in models:
        if options.names and model.name not in options.names:
            continue
        try:
            print(fetch(model, options.output, Path(folder) if folder else None))
        except (FetchError, OSError) as error:
            failed = True
            print(error, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
