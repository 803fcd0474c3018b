"""What nbval compares: not TensorFlow's log, nor HTML twins of text."""


def pytest_collection_modifyitems(items):
    for item in items:
        skipped = getattr(item.parent, "skip_compare", None)
        if skipped is not None and "stderr" not in skipped:
            item.parent.skip_compare = (*skipped, "stderr", "text/html")
