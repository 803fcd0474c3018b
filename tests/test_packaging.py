import email
import gzip
import hashlib
import importlib.metadata
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import vae_keras
import vae_keras.mnist

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines):
    """Name → version range, the project's own extras resolved."""
    found = {}
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        if name == "vae-keras":
            for extra in requirement.extras:
                found |= requirements(EXTRAS[extra])
        else:
            found[name] = requirement.specifier
    return found


# === The interface ===


def test_every_public_name_exists_and_is_documented():
    assert vae_keras.__doc__
    assert len(set(vae_keras.__all__)) == len(vae_keras.__all__)
    for name in vae_keras.__all__:
        thing = getattr(vae_keras, name)
        documentation = inspect.getdoc(thing)
        assert documentation, name
        section = "Args:" if inspect.signature(thing).parameters else "Returns:"
        assert section in documentation, name
        # What fits no doctest has no example: plots of a trained model.
        if not name.startswith("plot_"):
            assert ">>> " in documentation, name


def test_every_public_argument_is_documented():
    for name in vae_keras.__all__:
        thing = getattr(vae_keras, name)
        documentation = inspect.getdoc(thing)
        for argument in inspect.signature(thing).parameters:
            if argument != "kwargs":
                assert f"\n    {argument}: " in documentation, (name, argument)


def test_version_is_the_packages():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", vae_keras.__version__)
    try:
        installed = importlib.metadata.version("vae_keras")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vae_keras is on the path and not installed")
    assert installed == vae_keras.__version__


def test_import_loads_nothing_that_keras_does_not():
    # Keras itself imports matplotlib, scikit-learn and IPython where it
    # finds them; the package must not add to that.
    code = (
        "import sys, tensorflow, keras;"
        "before = set(sys.modules);"
        "import vae_keras;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
    ).stdout
    assert output.split() == ["vae_keras"]


WITHOUT_EXTRAS = """
import sys

extras = "IPython onnx onnxruntime scipy sklearn tensorboard tf2onnx"
sys.modules |= dict.fromkeys(extras.split())  # Importing them fails.
import vae_keras
import numpy as np

assert not {"tensorflow_datasets", "tqdm"} & sys.modules.keys()
images = np.linspace(0, 1, 96, dtype="float32").reshape(2, 8, 6, 1)
vae = vae_keras.VAE(
    vae_keras.mlp_encoder((8, 6, 1), 2, (4,)),
    vae_keras.mlp_decoder(2, (8, 6, 1), (4,)),
)
vae.compile("adam", jit_compile=False)
vae.fit(images, verbose=0, callbacks=[vae_keras.SampleGrid(images, "grid")])
vae.generator().export("generator", verbose=False)
"""


def test_what_needs_no_extra_works_without(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert (tmp_path / "grid" / "epoch-0001.png").exists()
    assert (tmp_path / "generator" / "saved_model.pb").exists()


# === MNIST ===


def test_mnist_files_have_their_checksums():
    folder = vae_keras.mnist.FOLDER
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: checksum for checksum, name in map(str.split, lines)}
    assert {f"{name}.gz" for name in sums} == {
        path.name for path in folder.glob("*.gz")
    }
    for name, checksum in sums.items():
        contents = gzip.decompress((folder / f"{name}.gz").read_bytes())
        assert hashlib.sha256(contents).hexdigest() == checksum, name
        expected = vae_keras.mnist._SIZES_AND_CHECKSUMS[f"{name}.gz"]
        assert (len(contents), checksum) == expected
    assert len(vae_keras.mnist._SIZES_AND_CHECKSUMS) == len(sums) == 4


def test_mnist_has_its_licence():
    licence = (vae_keras.mnist.FOLDER / "LICENSE.txt").read_text()
    for words in ("LeCun", "Cortes", "Attribution-Share", "NIST"):
        assert words in licence
    for path in PROJECT["license-files"]:
        assert (ROOT / path).is_file()


def test_every_package_and_its_data_are_packed():
    text = (ROOT / "pyproject.toml").read_text()
    setuptools = tomllib.loads(text)["tool"]["setuptools"]
    folders = {path.parent for path in ROOT.glob("vae_keras/**/*.py")}
    packages = {".".join(path.relative_to(ROOT).parts) for path in folders}
    assert set(setuptools["packages"]) == packages
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        data = {path for p in patterns for path in folder.glob(p)}
        rest = {path for path in folder.iterdir() if path.is_file()} - data
        assert {path.suffix for path in rest} <= {".py"}


# === The wheel ===


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """What `pip install` gets, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "vae_keras",
        folder / "vae_keras",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=folder,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    paths = (ROOT / "vae_keras").rglob("*")
    paths = {path for path in paths if path.is_file()}
    expected = {str(path.relative_to(ROOT)) for path in paths}
    assert names == {name for name in expected if "__pycache__" not in name}


def test_a_plain_install_brings_neither_notebooks_nor_extras(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == vae_keras.__version__
    assert set(metadata.get_all("Provides-Extra")) == EXTRAS.keys()
    direct = map(Requirement, metadata.get_all("Requires-Dist"))
    plain = [
        r for r in direct if not r.marker or r.marker.evaluate({"extra": ""})
    ]
    assert {r.name for r in plain} == {
        Requirement(line).name for line in PROJECT["dependencies"]
    }
    seen = set()
    for requirement in plain:
        needed(requirement, seen)
    names = {name for name, *_ in seen}
    assert names >= {"tensorflow", "keras", "matplotlib"}
    extras = [line for extra in EXTRAS.values() for line in extra]
    optional = requirements(extras).keys()
    assert optional >= {"jupyter", "scikit-learn", "scipy", "onnxruntime"}
    optional |= {"ipython", "ipykernel", "notebook", "onnx"}
    assert sorted(names & optional) == []


# === Dependencies ===


def test_environment_yml_has_the_same_ranges():
    text = (ROOT / "environment.yml").read_text()
    (*conda, pip) = yaml.safe_load(text)["dependencies"]
    lines = [*conda, *pip["pip"]] if isinstance(pip, dict) else [*conda, pip]
    # pip itself, and the package itself in place, are no dependencies.
    own = ("pip", "--editable .", "-e .")
    listed = requirements(line for line in lines if line not in own)
    python = listed.pop("python")
    assert python == SpecifierSet(PROJECT["requires-python"])
    expected = requirements([*PROJECT["dependencies"], *EXTRAS["test"]])
    assert expected.keys() >= requirements(EXTRAS["notebooks"]).keys()
    assert expected.keys() >= requirements(EXTRAS["tensorboard"]).keys()
    assert listed == expected


def test_environment_yml_says_why():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    entries = lines[lines.index("dependencies:") + 1 :]
    entries = [line for line in entries if re.match(r"\s*- ", line)]
    assert entries
    for line in entries:
        if line.split() != ["-", "pip:"]:
            assert re.search(r"  # \w", line), f"no reason: {line}"


def test_the_lock_is_names_and_versions():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.!+]+( *;.*)?", line), line


def pins():
    """Name → the version in requirements.lock, for this machine."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate():
                name = canonicalize_name(requirement.name)
                assert name not in found, f"{name} twice"
                found[name] = requirement.specifier
    return found


def needed(requirement, seen):
    """Adds the names of a requirement and of all that it requires."""
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return
    name = canonicalize_name(requirement.name)
    key = name, *sorted(requirement.extras)
    if key in seen:
        return
    seen.add(key)
    for line in importlib.metadata.requires(name) or ():
        inner = Requirement(line)
        for extra in ("", *requirement.extras):
            if not inner.marker or inner.marker.evaluate({"extra": extra}):
                inner.marker = None
                needed(inner, seen)
                break


def test_the_lock_pins_all_that_is_needed():
    locked, seen = pins(), set()
    direct = requirements([*PROJECT["dependencies"], *EXTRAS["test"]])
    for name, specifier in direct.items():
        needed(Requirement(f"{name}{specifier}"), seen)
        (pin,) = locked[name]
        assert specifier.contains(pin.version), name
    names = {name for name, *_ in seen}
    assert len(names) > 50, "the walk has found almost nothing"
    assert sorted(names - locked.keys()) == []


# === The repository ===


def test_no_file_holds_a_home_folder_or_a_package_index():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    # Spelled so that this file does not hold them.
    index = r"(py[p]i|python[h]osted)\.(org|io)|index[-_]url|simple/"
    home = r"/" + r"(home|root|Users)/[\w.-]|[A-Z]:\\" + r"Users"
    pattern = re.compile(f"{home}|{index}")
    names = listing.stdout.decode().rstrip("\0").split("\0")
    assert "pyproject.toml" in names
    here = pathlib.Path(__file__)
    for path in (ROOT / name for name in names):
        if path.suffix in (".gz", ".h5", ".png") or path == here:
            continue
        if not path.exists():
            continue
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"
