"""The site: built without a warning, and nothing in it leads nowhere."""

import html.parser
import subprocess
import sys
import urllib.parse

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow


class Page(html.parser.HTMLParser):
    """What a page links to, loads and shows, and where one can jump to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.texts, self.anchors = [], [], [], set()
        self.formulas = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img":
            self.loads.append(attributes["src"])
            self.texts.append(attributes.get("alt", ""))
        if tag == "script" and attributes.get("src"):
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") == "stylesheet":
            self.loads.append(attributes["href"])
        self.formulas += "math" in attributes.get("class", "").split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", ROOT / "docs"]
    command += ["-d", folder / "trees", ROOT, folder / "html"]
    subprocess.run(command, check=True, timeout=600)
    paths = (folder / "html").resolve().rglob("*.html")
    # The theme's own files have templates among them.
    return {p: Page(p) for p in paths if "_static" not in p.parts}


def target_of(link, path):
    """The file that a link leads to, and the place in it."""
    parts = urllib.parse.urlsplit(link)
    name = urllib.parse.unquote(parts.path)
    file = (path.parent / name).resolve() if name else path
    return file, urllib.parse.unquote(parts.fragment)


def is_elsewhere(link):
    return urllib.parse.urlsplit(link).scheme in ("http", "https", "mailto")


def test_the_series_and_the_reference_are_there(site):
    names = {path.stem for path in site}
    stored = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert names >= stored | {"index", "reference", "results", "architecture"}


def test_links_lead_somewhere(site):
    for path, page in site.items():
        for link in page.links:
            # The latent page is built beside, from trained models.
            if is_elsewhere(link) or link == "../index.html":
                continue
            file, place = target_of(link, path)
            assert file.exists(), (path.name, link)
            if place and file in site:
                assert place in site[file].anchors, (path.name, link)


def test_nothing_is_loaded_from_elsewhere(site):
    for path, page in site.items():
        for link in page.loads:
            assert not is_elsewhere(link), (path.name, link)
            assert not link.startswith("//"), (path.name, link)
            assert target_of(link, path)[0].exists(), (path.name, link)


def test_formulas_need_no_network(site):
    pages = {path.stem: page for path, page in site.items()}
    page = pages["02_the_variational_autoencoder"]
    assert page.formulas > 20
    assert any("mathjax" in link for link in page.loads)


def test_every_figure_has_alternative_text(site):
    for path, page in site.items():
        if "notebooks" in path.parts or path.stem == "README":
            for text in page.texts:
                is_logo = text.startswith("vae_keras")
                assert is_logo or len(text.split()) > 5, (path.name, text)


def test_each_public_name_has_one_entry(site):
    from tests.test_packaging import PUBLIC

    (page,) = (page for path, page in site.items() if path.stem == "reference")
    objects = [
        anchor for anchor in page.anchors if (anchor or "").startswith("vae_")
    ]
    for module, name in PUBLIC:
        ends = [o for o in objects if o.endswith(f".{name}")]
        ends = [
            o for o in ends if o in (f"vae_keras.{name}", f"{module}.{name}")
        ]
        assert len(ends) == 1, (module, name, ends)
