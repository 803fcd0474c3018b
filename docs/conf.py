"""The site: the series as it is stored, the reference, and the pages here.

    make site

builds it from the root of the repository, so that notebooks, README and
figures are where their links look for them. Nothing is executed, and
nothing is fetched: what is built works from the file system too.
"""

import json
import pathlib
import sys

from docutils import nodes
from sphinx.util import inspect

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import vae_keras  # noqa: E402

project = "vae_keras"
copyright = "the vae_keras authors"
version = release = vae_keras.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "notebooks/[0-9]*.ipynb",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
]
exclude_patterns = ["docs/_build"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
# The tables of results are linked from their page, and in no list.
suppress_warnings = ["toc.not_included"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# `VAE` in a docstring leads to its entry, `(n, 28, 28, 1)` is code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]

html_theme = "sphinx_book_theme"
html_title = "vae_keras"
html_theme_options = {"navbar_persistent": [], "navbar_end": []}
html_show_sourcelink = False
html_copy_source = False

# Where others document what our signatures name, by the names of both.
KERAS = "https://keras.io/api/"
TENSORFLOW = "https://www.tensorflow.org/api_docs/python/tf/"
ELSEWHERE = {
    "keras.Model": KERAS + "models/model/#model-class",
    "keras.src.models.model.Model": KERAS + "models/model/#model-class",
    "keras.src.backend.common.keras_tensor.KerasTensor": KERAS + "ops/",
    "keras.src.backend.Variable": KERAS + "ops/",
    "tensorflow.python.framework.tensor.Tensor": TENSORFLOW + "Tensor",
    "tensorflow.python.data.ops.dataset_ops.DatasetV2": TENSORFLOW
    + "data/Dataset",
    "numpy.ndarray": "https://numpy.org/doc/stable/reference/generated/"
    "numpy.ndarray.html",
    "Figure": "https://matplotlib.org/stable/api/figure_api.html",
    "collections.abc.Sequence": "https://docs.python.org/3/library/"
    "collections.abc.html#collections.abc.Sequence",
    "collections.abc.Mapping": "https://docs.python.org/3/library/"
    "collections.abc.html#collections.abc.Mapping",
}


def link_elsewhere(app, env, node, contents):
    """Links types of other packages, without asking their sites."""
    url = ELSEWHERE.get(node.get("reftarget"))
    if url is not None:
        return nodes.reference("", "", contents, internal=False, refuri=url)
    return None


def keep_blocks(app, what, name, obj, options, lines):
    """Formulas and code below a colon, and examples, are blocks in RST too."""
    for i in reversed(range(len(lines) - 1)):
        line, below = lines[i], lines[i + 1 : i + 3]
        if below[0].lstrip().startswith(">>>") and line.endswith(":"):
            lines[i] = line.replace("Example:", "**Example**")
            lines.insert(i + 1, "")
        elif (
            line.endswith(":")
            and not below[0]
            and indent(below[-1]) > indent(line)
        ):
            lines[i] = line + ":"


def show_arguments(app, what, name, obj, options, signature, returns):
    """Of Keras's classes `__new__` says nothing: shows those of `__init__`."""
    if what == "class" and signature == "(*args, **kwargs)":
        arguments = inspect.signature(obj.__init__, bound_method=True)
        return inspect.stringify_signature(arguments), returns
    return None


def indent(line):
    return len(line) - len(line.lstrip())


def describe_figures(app, name, source):
    """Hands a cell's alt text to its figure."""
    if name.startswith("notebooks/"):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if text := cell["metadata"].get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": text}}
        source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", describe_figures)
    app.connect("autodoc-process-signature", show_arguments)
    app.connect("missing-reference", link_elsewhere)
    # Before napoleon reads the sections.
    app.connect("autodoc-process-docstring", keep_blocks, priority=1)
