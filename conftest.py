"""What nbval compares and leaves behind; the last words of a failing run."""

import pathlib
import shlex

import nbformat
import pytest


def pytest_collection_modifyitems(items):
    """Leaves TensorFlow's log and HTML twins of text out of comparisons."""
    for item in items:
        skipped = getattr(item.parent, "skip_compare", None)
        if skipped is not None and "stderr" not in skipped:
            item.parent.skip_compare = (*skipped, "stderr", "text/html")


def pytest_runtest_teardown(item, nextitem):
    """After a notebook's last cell, its new outputs go to build/notebooks."""
    if not hasattr(item, "cell"):
        return
    item.cell.outputs = [
        output for output in item.test_outputs if output.get("name") != "stderr"
    ]
    for output in item.cell.outputs:
        if "image/png" in output.get("data", {}):
            output.metadata["alt"] = item.cell.metadata.get("alt", "")
    if nextitem is None:
        notebook = item.parent.nb
        notebook.cells = [
            cell
            for cell in notebook.cells
            if "solution" not in cell.metadata.get("tags", ())
        ]
        folder = pathlib.Path("build", "notebooks")
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / item.path.name)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """The first failure, and how to repeat it, end what pytest prints."""
    result = yield
    plugins = session.config.pluginmanager
    reporter = plugins.get_plugin("terminalreporter")
    is_nbval = getattr(session.config.option, "nbval", False)
    if reporter is not None and not is_nbval:
        stats = reporter.stats
        failures = stats.get("failed", []) + stats.get("error", [])
        for first in failures[:1]:
            if len(failures) > 1:
                reporter.write_line(
                    f"\nThe first failure:\n{first.longreprtext}"
                )
            command = f".venv/bin/python -m pytest {shlex.quote(first.nodeid)}"
            reporter.write_line(f"\nTo repeat it alone: {command}")
        # What TensorFlow said while it was imported would come last.
        plugins.get_plugin("capturemanager").read_global_capture()
    return result


@pytest.fixture(autouse=True)
def _names_of_examples(request):
    """Gives docstrings' examples a `vae`, `images` and a `folder`."""
    if isinstance(request.node, pytest.DoctestItem):
        import vae_keras

        vae = vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), latent_dim=2),
            vae_keras.mlp_decoder(2, (28, 28, 1)),
        )
        vae.compile("adam", jit_compile=False)
        images, _ = vae_keras.load_mnist("test[:64]")
        namespace = request.getfixturevalue("doctest_namespace")
        folder = request.getfixturevalue("tmp_path")
        names = {"vae_keras": vae_keras, "vae": vae, "images": images}
        namespace.update(names, folder=folder)
