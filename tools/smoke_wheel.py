# SPDX-License-Identifier: Apache-2.0
"""Install a wheel into a fresh environment and use it from a folder outside the checkout.

Only the core dependencies are installed: everything has to import, and the embedded network to
run, with none of the optional runtimes. A wheel for one platform brings the native engine, for C
programs too; one for any platform runs in the numpy reference, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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

# Writes the first program of the embedded network to a file and prints what zeros become.
WRITE_PROGRAM = """
from importlib.resources import files
import numpy as np
from akida_backend.compiler import compile
from akida_backend.program_format import program_to_bytes
from akida_backend.simulator import Simulator
program = compile(str(files("akida_backend") / "demo/model.tflite")).programs[0]
open("program", "wb").write(program_to_bytes(program))
x = np.zeros((1, *program.input.shape[1:]), program.input.dtype.numpy)
print(*Simulator(program).run(x).reshape(-1).view(np.uint8))
"""

USE_LIBRARY = r"""
#include <akida_backend.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
  unsigned char* bytes = malloc(1 << 20);
  FILE* file = fopen("program", "rb");
  if (file == NULL || bytes == NULL) return 2;
  size_t size = fread(bytes, 1, 1 << 20, file);
  fclose(file);
  akida_backend_program* program = akida_backend_program_load(bytes, size, NULL);
  if (program == NULL) return fprintf(stderr, "%s\n", akida_backend_error()), 3;
  akida_backend_port input, output;
  akida_backend_program_port(program, AKIDA_BACKEND_INPUT, &input);
  akida_backend_program_port(program, AKIDA_BACKEND_OUTPUT, &output);
  akida_backend_context* context = akida_backend_context_create(program, 1);
  void* x = calloc(1, input.sample_bytes);
  unsigned char* y = calloc(1, output.sample_bytes);
  if (akida_backend_run(context, x, y, NULL, 1) != 0) return 4;
  for (size_t i = 0; i < output.sample_bytes; i++) printf(i ? " %d" : "%d", y[i]);
  printf("\n");
  akida_backend_context_free(context);
  akida_backend_program_free(program);
  return 0;
}
"""


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return [name for name in names if not name.split("/")[0].endswith(".dist-info")]


class Installed:
    """The wheel in an environment of its own."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.outside = folder / "elsewhere"
        self.outside.mkdir()
        environment = folder / "venv"
        venv.create(environment, with_pip=True)
        self.programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
        self.run("python", "-m", "pip", "install", "-qq", str(wheel))

    def run(
        self, *command: str, shown: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command outside the checkout; another exit code ends everything."""
        print(f"$ {shown or ' '.join(command)}", flush=True)
        name, *arguments = command
        program = str(self.programs / name) if (self.programs / name).exists() else name
        variables = {k: v for k, v in os.environ.items() if not k.startswith("AKIDA_BACKEND_")}
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(
            [program, *arguments],
            cwd=self.outside,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        sys.stderr.write(done.stderr)
        if done.returncode != code:
            sys.exit(f"{done.stdout}\nexit code {done.returncode}")
        return done

    def python(self, code: str, shown: str) -> str:
        return self.run("python", "-c", code, shown=f"python -c {shown}").stdout


def check_native(installed: Installed) -> None:
    """The library is used, by C programs too."""
    engine = json.loads(installed.run("akida-backend", "doctor", "--json", "-").stdout)["engine"]
    print(f"native engine {engine['version']}, {engine['instruction_set']}: {engine['library']}")
    if engine["library"] is None or engine["problem"] is not None:
        sys.exit(f"no native engine: {engine['problem']}")
    library = Path(engine["library"])
    header = library.parent.parent / "include"
    compiler = shutil.which("cc")
    if compiler is None or sys.platform == "win32":
        print("no C program is compiled against it: no C compiler")
        return
    expected = installed.python(WRITE_PROGRAM, "WRITE_PROGRAM")
    (installed.outside / "use.c").write_text(USE_LIBRARY)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{header}", "use.c", "-o", "use"]
    installed.run(compiler, *flags, str(library), f"-Wl,-rpath,{library.parent}")
    found = installed.run(str(installed.outside / "use")).stdout
    if found.split() != expected.split():
        sys.exit(f"a C program gets other numbers: {found} instead of {expected}")


def check_reference(installed: Installed) -> None:
    """The numpy reference stands in, which is said once and is a problem to doctor."""
    doctor = installed.run("akida-backend", "doctor", code=1).stdout
    if "Native engine: none, not built" not in doctor:
        sys.exit(f"doctor does not say that there is no native engine:\n{doctor}")
    said = installed.run("akida-backend", "demo").stderr
    if said.count("numpy reference") != 1:
        sys.exit(f"the numpy reference is not named once:\n{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--engine", choices=("native", "reference"), help="what it has to bring")
    parsed = parser.parse_args()
    wheel: Path = parsed.wheel.resolve(strict=True)

    names = names_in(wheel)
    if {name.split("/")[0] for name in names} != {"akida_backend"}:
        sys.exit(f"{wheel.name} installs something beside akida_backend: {names}")
    native = not wheel.stem.endswith("-py3-none-any")
    if native != any(name.startswith("akida_backend/lib/libakida_backend.") for name in names):
        sys.exit(f"{wheel.name}: its name does not tell whether it holds the native engine")
    if parsed.engine is not None and native != (parsed.engine == "native"):
        sys.exit(f"{wheel.name} does not bring the {parsed.engine} engine")

    with tempfile.TemporaryDirectory() as folder:
        installed = Installed(wheel, Path(folder))
        installed.run("python", "-m", "pip", "check")
        print(installed.python(IMPORT_EVERYTHING, "IMPORT_EVERYTHING"), end="")
        print(installed.run("akida-backend", "demo").stdout, end="")
        installed.run("python", "-m", "akida_backend", "devices")
        (check_native if native else check_reference)(installed)


if __name__ == "__main__":
    main()
