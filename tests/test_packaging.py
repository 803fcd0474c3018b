import ast
import email
import gzip
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def rows_of(heading):
    """The tables of docs/architecture.md: first column → names beside it."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|(.*)$", section, re.M)
    return {a.strip("`"): re.findall("`(.+?)`", b) for a, b in rows}


def public_names(module):
    """What the module defines, without an underscore."""
    names = vars(module).items()
    return {
        name
        for name, value in names
        if getattr(value, "__module__", None) == module.__name__
        and not name.startswith("_")
    }


LISTED = rows_of("Public names")
MODULES = {name: importlib.import_module(name) for name in LISTED}
PUBLIC = [(m, name) for m, names in LISTED.items() for name in names]


def test_the_list_of_public_names_is_whole():
    assert len(LISTED["vae_keras"]) == len(set(vae_keras.__all__)) == 25
    assert set(LISTED["vae_keras"]) == set(vae_keras.__all__)
    modules = {m: names for m, names in LISTED.items() if m != "vae_keras"}
    for module, names in modules.items():
        assert set(names) == public_names(MODULES[module]), module
    folder = pathlib.Path(vae_keras.__file__).parent
    stems = {path.stem for path in folder.glob("[!_]*.py")}
    # `data` defines what the top level has.
    assert stems - {"data", "plotting", "models", "iwae"} == {
        module.removeprefix("vae_keras.") for module in modules
    }


def test_modules_import_only_what_stands_above_them():
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## Modules\n")[1].split("\n## ")[0]
    column = re.findall(r"^\| (`.*?) \|", section, re.M)
    order = [name for cell in column for name in re.findall(r"`(\w+)`", cell)]
    folder = pathlib.Path(vae_keras.__file__).parent
    stems = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(order) == stems | {"mnist"}
    for stem in stems:
        tree = ast.parse((folder / f"{stem}.py").read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module == "vae_keras":
                imported = [alias.name for alias in node.names]
            elif node.module.startswith("vae_keras."):
                imported = [node.module.split(".")[1]]
            else:
                continue
            for name in imported:
                # For types alone, a model may be named in plots.
                if (stem, name) != ("plotting", "models"):
                    assert order.index(name) < order.index(stem), (stem, name)


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_is_documented(module, name):
    documentation = inspect.getdoc(getattr(MODULES[module], name)) or ""
    parameters = inspect.signature(getattr(MODULES[module], name)).parameters
    if name.startswith(("Likelihood", "DigitH", "SampleQ")) and parameters:
        assert "Attributes:" in documentation or "Example" in documentation
        return
    documented = set()
    if "Args:" in documentation:
        section = documentation.split("Args:\n")[1].split("\n\n")[0]
        for names in re.findall(r"((?:\*{0,2}\w+,\s+)*\*{0,2}\w+): ", section):
            documented |= set(re.findall(r"\w+", names))
    assert set(parameters) - {"args", "kwargs"} <= documented
    # Pieces of networks, and plots of a trained model, have no example.
    if module == "vae_keras" and not name.startswith("plot_"):
        assert ">>> " in documentation


def test_types_are_shipped():
    assert (pathlib.Path(vae_keras.__file__).parent / "py.typed").exists()


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == vae_keras.__version__
    assert f"## {vae_keras.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_version_is_the_packages():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", vae_keras.__version__)
    try:
        installed = importlib.metadata.version("vae_keras")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vae_keras is on the path and not installed")
    assert installed == vae_keras.__version__


@pytest.mark.slow
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
"""
# What macOS and Windows lack, or have otherwise.
WITHOUT_LINUX = """
import ctypes, os, platform, sys
import keras, tensorflow

for name in dir(os):
    if name.startswith(("fork", "posix", "sched_")):
        delattr(os, name)
platform.libc_ver = lambda *args, **kwargs: ("", "")


class NoLibrary:
    def __init__(self, *args):
        raise OSError("no such library")


ctypes.CDLL = NoLibrary


def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(arguments[0])


sys.addaudithook(hook)
"""
WORK = """
import vae_keras
import numpy as np

assert not {"tensorflow_datasets", "tqdm"} & sys.modules.keys()
images = np.linspace(0, 1, 96, dtype="float32").reshape(2, 8, 6, 1)
vae = vae_keras.VAE(
    vae_keras.mlp_encoder((8, 6, 1), 2, (4,)),
    vae_keras.mlp_decoder(2, (8, 6, 1), (4,)),
)
vae.compile("adam", jit_compile=False)
grid = vae_keras.callbacks.SampleGrid(images, "grid")
vae.fit(images, verbose=0, callbacks=[grid])
vae.save("C:\\\\我的 模型.keras")
vae = vae_keras.VAE.from_config(vae.get_config())
vae.load_weights("C:\\\\我的 模型.keras")
vae.generator().export("generator", verbose=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("without", [WITHOUT_EXTRAS, WITHOUT_LINUX])
def test_what_needs_neither_extras_nor_linux(tmp_path, without):
    child = subprocess.run(
        [sys.executable, "-c", without + WORK],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert (tmp_path / "grid" / "epoch-0001.png").exists()
    assert (tmp_path / "C:\\我的 模型.keras").exists()
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
    assert len(sums) == 4


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
    optional -= {"psutil"}  # TensorFlow Datasets needs it, too.
    if Version(importlib.metadata.version("tensorflow")) < Version("2.21"):
        optional -= {"tensorboard"}  # It was a part of TensorFlow.
    assert sorted(names & optional) == []


@pytest.mark.slow
def test_a_source_distribution_is_the_repository(tmp_path):
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git repository")
    names = listing.stdout.rstrip("\0").split("\0")
    names = {name for name in names if (ROOT / name).exists()}
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    (tmp_path / "dist").mkdir()
    subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    (path,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert sorted(names - packed) == []


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


def pins(**environment):
    """Name → the version in requirements.lock, here or on other machines."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            marker = requirement.marker
            if not marker or marker.evaluate(environment):
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
    if not locked["tensorflow"].contains(
        importlib.metadata.version("tensorflow")
    ):
        pytest.skip("other versions than the locked ones are installed")
    direct = requirements([*PROJECT["dependencies"], *EXTRAS["test"]])
    for name, specifier in direct.items():
        needed(Requirement(f"{name}{specifier}"), seen)
        (pin,) = locked[name]
        assert specifier.contains(pin.version), name
    names = {name for name, *_ in seen}
    assert len(names) > 50, "the walk has found almost nothing"
    assert sorted(names - locked.keys()) == []


PYTHONS = [
    line.rsplit(" ", 1)[1]
    for line in PROJECT["classifiers"]
    if re.fullmatch(r".* :: 3\.\d+", line)
]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_lock_is_for_every_python_and_system(python, system):
    locked = pins(
        python_version=python,
        python_full_version=f"{python}.0",
        sys_platform=system,
    )
    direct = requirements([*PROJECT["dependencies"], *EXTRAS["test"]])
    for name, specifier in direct.items():
        (pin,) = locked[name]
        assert specifier.contains(pin.version), name


def test_continuous_integration_runs_every_python():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert jobs["check"]["strategy"]["matrix"]["python"] == PYTHONS
    ends = jobs["versions"]["strategy"]["matrix"]["include"]
    assert [end["python"] for end in ends] == [PYTHONS[0], PYTHONS[-1]]
    for job in jobs.values():
        assert job["timeout-minutes"] <= 60


# === The repository ===


def test_make_knows_what_notebooks_read():
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    listing = subprocess.run(
        ["make", "--print-data-base", "--question", "clean"],
        capture_output=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        text=True,
    ).stdout
    rules = re.findall(r"^build/passed/(\w+): (.*)$", listing, re.M)
    rules = {stem: set(needed.split()) for stem, needed in rules}
    saved_by, checked = {}, 0
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        cells = [cell for cell in cells if cell["cell_type"] == "code"]
        code = "\n".join("".join(cell["source"]) for cell in cells)
        expected = set()
        if "../benchmarks/results" in code:
            names = re.findall(r"(\w+\.json)", code)
            expected |= {f"benchmarks/results/{name}" for name in names}
        if "../artifacts" in code:
            for name in re.findall(r"(\w+\.keras)", code):
                stem = saved_by.setdefault(name, path.stem)
                if stem != path.stem:
                    expected.add(f"build/passed/{stem}")
        for name in re.findall(r"\.\./(examples/\w+\.py)", code):
            expected.add(name)
        assert expected <= rules.get(path.stem, set()), path.stem
        checked += len(expected)
    assert checked > 10


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
        if path.suffix in (".gz", ".h5", ".png", ".gif") or path == here:
            continue
        if not path.exists():
            continue
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"
