# SPDX-License-Identifier: Apache-2.0
"""What the wheel and the sdist hold, and what an installation from either imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"akida_backend": "akida_backend", "importers": "akida_backend/importers",
            "ops": "akida_backend/ops"}  # fmt: skip
NOT_INSTALLED = "akida_backend/native"  # sources of the engine
LINKS = ("akida_backend/importers", "akida_backend/ops")
BUILD_INPUTS = ("pyproject.toml", "README.md", "LICENSE", "akida_backend", "importers", "ops")
DEPENDENCIES = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}

IMPORT = """
import importlib.resources, importlib.util
import akida_backend, akida_backend.importers, akida_backend.ops
for module in (akida_backend, akida_backend.importers, akida_backend.ops):
    print(module.__file__)
assert (importlib.resources.files("akida_backend") / "py.typed").is_file()
"""


@pytest.fixture(scope="module", params=["links", "links-as-text-files"])
def checkout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what builds read, as git checks it out with and without symbolic links."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in BUILD_INPUTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)
    for name in LINKS:
        link = folder / name
        link.unlink()
        target = f"../{link.name}"
        if request.param == "links":
            link.symlink_to(target)
        else:
            link.write_text(target)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("--wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("--sdist", checkout, tmp_path_factory.mktemp("sdist"))


def build(kind: str, source: Path, out: Path, **variables: str) -> Path:
    command = ("-m", "build", kind, "--no-isolation", "--outdir", str(out), str(source))
    run(*command, folder=out, **variables)
    (made,) = out.iterdir()
    return made


def run(*arguments: str, folder: Path, path: str | None = None, **variables: str) -> str:
    """Run Python in `folder`; with `path`, importing from there and no other site folder.

    Builds leave out the native engine, which takes a while, unless there are `variables`.
    """
    environment = {**os.environ, **(variables or {"SKBUILD_WHEEL_CMAKE": "false"})}
    if path is not None:
        arguments = ("-S", *arguments)  # an editable install of the checkout would come first
        environment["PYTHONPATH"] = os.pathsep.join([path, *sorted(DEPENDENCIES)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def package_files(root: Path) -> list[str]:
    """Files the package has in the tree, by the names they are installed under."""
    return sorted(
        f"{installed}/{file.relative_to(root / folder).as_posix()}"
        for folder, installed in PACKAGES.items()
        for file in (root / folder).rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and not any(file.is_relative_to(root / link) for link in LINKS)
    )


def payload(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: archive.read(name)
            for name in archive.namelist()
            if not name.split("/")[0].endswith(".dist-info")
        }


def test_wheel_holds_the_tree_each_file_once(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    expected = [n for n in package_files(checkout) if not n.startswith(f"{NOT_INSTALLED}/")]
    assert sorted(n for n in names if ".dist-info/" not in n) == expected
    assert {n.split("/")[-1] for n in names if ".dist-info/" in n} >= {"LICENSE", "METADATA"}


def test_sdist_holds_the_tree_each_file_once(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = [member.name.partition("/")[2] for member in members if not member.isdir()]
    sources = (
        file.relative_to(checkout).as_posix()
        for file in checkout.rglob("*")
        if file.is_file() and not any(file.is_relative_to(checkout / link) for link in LINKS)
    )
    assert sorted(names) == sorted(["PKG-INFO", *sources])


def test_wheel_from_the_sdist_equals_the_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    out = tmp_path / "wheel"
    out.mkdir()
    assert payload(build("--wheel", source, out)) == payload(wheel)


def test_installs_akida_backend_alone_and_imports_from_outside(
    checkout: Path, tmp_path: Path
) -> None:
    installed, outside = tmp_path / "installed", tmp_path / "outside"
    outside.mkdir()
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target")
    run("-m", "pip", "install", *options, str(installed), str(checkout), folder=outside)
    top_level = {p.name for p in installed.iterdir() if p.suffix != ".dist-info"}
    assert top_level == {"akida_backend", "bin"}
    files = run("-c", IMPORT, folder=outside, path=str(installed)).splitlines()
    package = installed / "akida_backend"
    assert files == [str(package / f"{n}__init__.py") for n in ("", "importers/", "ops/")]


@pytest.mark.parametrize("checkout", ["links"], indirect=True)
def test_editable_install_imports_the_checkout_and_new_files_in_it(
    checkout: Path, tmp_path: Path
) -> None:
    site, outside = tmp_path / "site", tmp_path / "outside"
    outside.mkdir()
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target")
    run("-m", "pip", "install", *options, str(site), "--editable", str(checkout), folder=outside)
    added = checkout / "ops" / "added_later.py"
    added.touch()
    code = f"import site; site.addsitedir({str(site)!r})\n{IMPORT}"
    code += f"import akida_backend.ops.{added.stem}"
    files = run("-c", code, folder=outside, path=str(site)).splitlines()
    added.unlink()
    resolved = [Path(file).resolve() for file in files]
    folders = (checkout / "akida_backend", checkout / "importers", checkout / "ops")
    assert resolved == [folder / "__init__.py" for folder in folders]


NOWHERE = {"CC": "/nowhere", "CXX": "/nowhere"}


def test_a_compiler_that_fails_gives_a_wheel_for_any_platform(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    made = build("--wheel", checkout, tmp_path, AKIDA_BACKEND_REQUIRE_NATIVE="", **NOWHERE)
    assert made.name.endswith("-py3-none-any.whl")
    assert payload(made) == payload(wheel)


def test_a_compiler_that_fails_is_an_error_where_the_engine_is_required(
    checkout: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="CMake configuration failed"):
        build("--wheel", checkout, tmp_path, AKIDA_BACKEND_REQUIRE_NATIVE="1", **NOWHERE)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_engine_is_built_into_a_wheel_of_its_platform(checkout: Path, tmp_path: Path) -> None:
    before = sorted(checkout.rglob("*"))
    made = build("--wheel", checkout, tmp_path, AKIDA_BACKEND_REQUIRE_NATIVE="1")
    assert sorted(checkout.rglob("*")) == before, "building leaves files among the sources"
    assert "-py3-none-" in made.name
    assert not made.name.endswith("-any.whl")
    added = payload(made).keys() - set(package_files(checkout))
    header = "akida_backend/include/akida_backend.h"
    assert header in added
    library = {n for n in added if n.startswith("akida_backend/lib/libakida_backend.")}
    assert len(library) == 1
    kernels = {n for n in added if n.startswith("akida_backend/lib/libakida_backend_")}
    assert added == {header, *library, *kernels}
