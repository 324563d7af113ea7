# SPDX-License-Identifier: Apache-2.0
"""Install a wheel into a fresh environment and use it from a folder outside the checkout.

Only the core dependencies are installed: everything has to import, and the embedded network to
run, with none of the optional runtimes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil
import akida_backend
names = [m.name for m in pkgutil.walk_packages(akida_backend.__path__, "akida_backend.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert {"akida_backend.importers", "akida_backend.ops"} <= set(names), names
assert importlib.util.find_spec("importers") is None, "a top-level importers is installed"
assert importlib.util.find_spec("ops") is None, "a top-level ops is installed"
print(f"{len(names)} modules import from {akida_backend.__path__[0]}")
"""


def top_level_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        parts = {name.split("/")[0] for name in archive.namelist()}
    return {part for part in parts if not part.endswith(".dist-info")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve(strict=True)

    names = top_level_names(wheel)
    if names != {"akida_backend"}:
        sys.exit(f"{wheel.name} installs {sorted(names)}, not akida_backend alone")

    with tempfile.TemporaryDirectory() as folder:
        outside = Path(folder) / "elsewhere"
        outside.mkdir()
        environment = Path(folder) / "venv"
        venv.create(environment, with_pip=True)
        programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
        python = str(programs / "python")
        for command in (
            [python, "-m", "pip", "install", "-qq", str(wheel)],
            [python, "-m", "pip", "check"],
            [python, "-c", IMPORT_EVERYTHING],
            [str(programs / "akida-backend"), "demo"],
            [python, "-m", "akida_backend", "devices"],
        ):
            shown = " ".join(command).replace(IMPORT_EVERYTHING, "IMPORT_EVERYTHING")
            print(f"$ {shown.replace(f'{programs}/', '')}", flush=True)
            subprocess.run(command, cwd=outside, check=True)


if __name__ == "__main__":
    main()
