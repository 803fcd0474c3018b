"""The latent page computes what Keras computes, and does what it says."""

import importlib.util
import json
import re
import sys

import keras
import numpy as np
import pytest

import vae_keras
from tests.helpers import ROOT
from vae_keras.losses import bernoulli_nll, gaussian_kl

FOLDER = ROOT / "docs" / "latent"
NUM_DIGITS = 20

pytestmark = pytest.mark.slow


def module(name):
    """A script of docs/latent as a module."""
    spec = importlib.util.spec_from_file_location(
        f"latent_{name}", FOLDER / f"{name}.py"
    )
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


# What the script imports as its neighbour.
sys.path.append(str(FOLDER))
weights = importlib.import_module("stored_weights")
build = module("build")


# === A page, and a browser ===


@pytest.fixture(scope="module")
def vaes():
    """The models of the site, or else small ones after a few steps."""
    names = ("vae", "vae_beta_8", "vae_beta_64")
    paths = [ROOT / "artifacts" / f"{name}.keras" for name in names]
    if all(path.exists() for path in paths):
        return {
            beta: keras.saving.load_model(path)
            for beta, path in zip(build.BETAS, paths, strict=True)
        }
    images, _ = vae_keras.load_mnist("train[:12800]")
    found = {}
    for beta in build.BETAS:
        keras.utils.set_random_seed(0)
        vae = vae_keras.VAE(
            vae_keras.mlp_encoder((28, 28, 1), 2, (48, 32)),
            vae_keras.mlp_decoder(2, (28, 28, 1), (32, 48)),
            beta=beta,
            seed=0,
        )
        vae.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
        vae.fit(vae_keras.image_dataset(images, 128, seed=0), verbose=0)
        found[beta] = vae
    return found


@pytest.fixture(scope="module")
def built(vaes):
    return build.build(vaes)


@pytest.fixture(scope="module")
def path(built, tmp_path_factory):
    """The file of the page."""
    path = tmp_path_factory.mktemp("page") / "latent.html"
    build.write(path, built.page)
    return path


@pytest.fixture(scope="module")
def stored(built):
    """The networks as the page has them, in float64."""
    return [
        weights.Networks(
            *(
                [
                    weights.Layer(*(a.astype("float64") for a in x))
                    for x in layers
                ]
                for layers in networks
            )
        )
        for networks in built.networks
    ]


@pytest.fixture(scope="module")
def browser():
    """How to drive a browser; without one, these tests are skipped."""
    pytest.importorskip("selenium", reason="no Selenium: pip install selenium")
    browser = module("browser")
    try:
        browser.programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return browser


@pytest.fixture(scope="module")
def wide(browser, path):
    with browser.opened(path, 1200, 1600) as chrome:
        yield chrome


@pytest.fixture
def chrome(wide):
    """The page as it was opened, so that each test can run alone."""
    wide.execute_script(
        "latent.setModel(0); latent.moveTo([0, 0]);"
        "Object.assign(latent.state, {walk: null, mark: null, fade: null})"
    )
    return wide


@pytest.fixture(scope="module")
def digits():
    """The first test digits as `(n, pixels)`, exactly as the page has them."""
    images, _ = vae_keras.load_mnist(f"test[:{NUM_DIGITS}]")
    bytes_ = np.rint(255 * images.reshape(NUM_DIGITS, -1))
    return bytes_.astype("float64") / 255


@pytest.fixture(scope="module")
def epsilon():
    return np.random.default_rng(1).standard_normal((NUM_DIGITS, 2))


COMPUTE = """
const [model, epsilon] = arguments;
return epsilon.map((noise, i) => {
  const x = Array.from(latent.images.slice(784 * i, 784 * (i + 1)),
    (byte) => byte / 255);
  const posterior = latent.encode(latent.models[model], x);
  const draw = latent.drawOnce(latent.models[model], x, posterior, noise);
  const kl = latent.klLoss(posterior);
  return {mean: [...posterior.mean], logVar: [...posterior.logVar],
    logits: [...latent.decode(latent.models[model], draw.z)],
    reconstruction: draw.loss, kl, elbo: draw.loss + kl,
    logWeight: draw.logWeight};
});
"""


def of_page(chrome, model, epsilon):
    rows = chrome.execute_script(COMPUTE, model, epsilon.tolist())
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def of_numpy(networks, x, epsilon):
    mean, log_var = weights.encode(networks, x)
    z = mean + np.exp(log_var / 2) * epsilon
    reconstruction, kl = weights.terms(networks, x, epsilon)
    log_ratio = (epsilon**2 + log_var - z**2).sum(axis=1) / 2
    return {
        "mean": mean,
        "logVar": log_var,
        "logits": weights.decode(networks, z),
        "reconstruction": reconstruction,
        "kl": kl,
        "elbo": reconstruction + kl,
        "logWeight": log_ratio - reconstruction,
    }


def of_keras(encoder, decoder, x, epsilon):
    images = x.reshape(-1, 28, 28, 1).astype("float32")
    mean, log_var = encoder(images)
    z = mean + keras.ops.exp(log_var / 2) * epsilon.astype("float32")
    logits = decoder(z)
    reconstruction = bernoulli_nll(images, logits)
    kl = gaussian_kl(mean, log_var)
    found = {
        "mean": mean,
        "logVar": log_var,
        "logits": keras.ops.reshape(logits, (len(x), -1)),
        "reconstruction": reconstruction,
        "kl": kl,
        "elbo": reconstruction + kl,
    }
    return {name: np.asarray(value) for name, value in found.items()}


# === What needs no browser ===


def test_is_one_file_that_asks_for_nothing(built, path):
    text = path.read_text(encoding="utf-8")
    size = path.stat().st_size
    assert size == built.results["page_bytes"] <= build.MAX_BYTES
    assert "{{" not in text
    assert not re.findall(r"(?:src|srcset|action|poster)\s*=", text)
    assert "default-src 'none'" in text
    links = re.findall(r'href="([^"]*)"', text)
    assert len(links) > 5
    page = ROOT / "docs" / "_build"
    for link in set(links) - {"data:,"}:
        assert (page / link).resolve().is_file(), link


def test_links_lead_where_they_are_told(vaes):
    page = build.build(vaes, "notebooks/", ".html").page
    assert 'href="notebooks/03_training.html"' in page
    assert ".ipynb" not in page


def test_stored_weights_are_integers_times_powers_of_two(vaes):
    images, _ = vae_keras.load_mnist("train[:1000]")
    images = images.reshape(1000, -1)
    plain = build.networks_of(vaes[1])
    networks = weights.stored_networks(plain, images, 1, 1e-2)
    for stored, original in zip(
        [*networks.encoder, *networks.decoder],
        [*plain.encoder, *plain.decoder],
        strict=True,
    ):
        steps = np.exp2(np.add.outer(stored.rows, stored.columns, dtype=float))
        np.testing.assert_array_equal(
            stored.layer().kernel, stored.integers * steps
        )
        assert stored.layer().kernel.shape == original.kernel.shape


def test_rows_take_over_errors_of_others(vaes):
    """Rounding row after row is better than rounding each by itself."""
    images, _ = vae_keras.load_mnist("train[:1000]")
    images = images.reshape(1000, -1)
    layer = build.networks_of(vaes[1]).encoder[0]
    h = np.pad(images, ((0, 0), (0, 1)), constant_values=1).astype("float64")
    gradients = np.ones(layer.bias.size)
    statistics = weights.Statistics(h.T @ h / len(h), gradients)
    stored = weights.stored(layer, statistics, 0.1)
    steps = np.exp2(np.add.outer(stored.rows, stored.columns, dtype=float))
    nearest = np.rint(layer.kernel / steps) * steps
    expected = images @ layer.kernel + layer.bias
    errors = [
        np.mean((images @ kernel + bias - expected) ** 2)
        for kernel, bias in (
            (stored.layer().kernel, stored.bias),
            (nearest, layer.bias),
        )
    ]
    assert errors[0] < errors[1] / 2


def test_finer_steps_cost_less(vaes):
    images, _ = vae_keras.load_mnist("test[:1000]")
    images = images.reshape(1000, -1)
    plain = build.networks_of(vaes[1])
    costs = [
        build.measured(
            plain,
            weights.unpacked(
                weights.stored_networks(plain, images, 1, precision)
            ),
            images,
        )["cost_rms"]
        for precision in (1e-3, 1e-2)
    ]
    assert costs[0] < costs[1] / 4


def test_statistics_are_those_of_tensorflow(vaes):
    """The gradients by hand are those that TensorFlow takes."""
    import tensorflow as tf

    images, _ = vae_keras.load_mnist("test[:200]")
    noise = np.random.default_rng(0).standard_normal((200, 2), "float32")
    vae, x = vaes[8], tf.constant(images)
    with tf.GradientTape() as tape:
        mean, log_var = vae.encoder(x)
        output = tf.concat([mean, log_var], axis=1)
        tape.watch(output)
        z = output[:, :2] + tf.exp(output[:, 2:] / 2) * noise
        tape.watch(z)
        logits = vae.decoder(z)
        loss = bernoulli_nll(x, logits)
        loss += 8 * gaussian_kl(output[:, :2], output[:, 2:])
    expected = tape.gradient(loss, output).numpy()
    networks = build.networks_of(vae)
    rows = images.reshape(200, -1)
    statistics = weights.statistics_of(networks, rows, noise, 8)
    of_head = statistics[len(networks.encoder) - 1]
    np.testing.assert_allclose(
        of_head.gradients_rms,
        np.sqrt(np.mean(np.square(expected, dtype="float64"), axis=0)),
        rtol=1e-3,
    )


def test_other_models_are_refused():
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((28, 28, 1), 3, (8,)),
        vae_keras.mlp_decoder(3, (28, 28, 1), (8,)),
    )
    with pytest.raises(ValueError, match=r"2 latents.*Delete the file"):
        build.checked(vae, "vae.keras")
    vae = vae_keras.VAE(
        vae_keras.conv_encoder((28, 28, 1), 2, filters=2, hidden_units=(4,)),
        vae_keras.mlp_decoder(2, (28, 28, 1), (8,)),
    )
    with pytest.raises(ValueError, match="dense layers only"):
        build.networks_of(vae)


def test_committed_cost_is_of_three_models_and_fits():
    cost = json.loads((FOLDER / "cost.json").read_text())
    assert [row["beta"] for row in cost["models"]] == list(build.BETAS)
    assert cost["page_bytes"] <= build.MAX_BYTES
    for row in cost["models"]:
        terms = row["reconstruction_loss"] + row["kl_loss"]
        assert abs(terms - row["negative_elbo"]) < 1e-6
        assert abs(row["cost"]) < 0.5


# === Numbers ===


@pytest.mark.parametrize("model", range(3))
def test_numbers_are_those_of_numpy(chrome, stored, digits, epsilon, model):
    received = of_page(chrome, model, epsilon)
    expected = of_numpy(stored[model], digits, epsilon)
    for name, values in expected.items():
        np.testing.assert_allclose(
            received[name], values, rtol=0, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("model", range(3))
def test_numbers_are_those_of_keras(
    chrome, vaes, stored, built, digits, epsilon, model
):
    received = of_page(chrome, model, epsilon)
    vae = vaes[build.BETAS[model]]
    # With the stored weights Keras differs by float32's rounding.
    networks = (
        keras.models.clone_model(vae.encoder),
        keras.models.clone_model(vae.decoder),
    )
    *hidden, head = stored[model].encoder
    mean, log_var = (
        weights.Layer(kernel, bias)
        for kernel, bias in zip(
            np.split(head.kernel, 2, axis=1),
            np.split(head.bias, 2),
            strict=True,
        )
    )
    for network, layers in zip(
        networks, ([*hidden, mean, log_var], stored[model].decoder), strict=True
    ):
        network.set_weights([array for layer in layers for array in layer])
    expected = of_keras(*networks, digits, epsilon)
    for name, values in expected.items():
        np.testing.assert_allclose(
            received[name], values, rtol=1e-4, atol=1e-3, err_msg=name
        )
    # With its own it differs by what storing them has cost.
    original = of_keras(vae.encoder, vae.decoder, digits, epsilon)
    difference = received["elbo"] - original["elbo"]
    error = built.results["models"][model]["cost_rms"]
    assert np.sqrt(np.mean(difference**2)) < 3 * error + 1e-3
    assert np.sqrt(np.mean((received["kl"] - original["kl"]) ** 2)) < (
        3 * error + 1e-3
    )


def test_bound_and_its_error(chrome, stored, digits):
    noise = np.random.default_rng(2).standard_normal((50, 2))
    received = chrome.execute_script(
        """
        const [noise] = arguments;
        const x = Array.from(latent.images.slice(0, 784), (b) => b / 255);
        const posterior = latent.encode(latent.models[0], x);
        const found = latent.summary(noise.map((epsilon) =>
          latent.drawOnce(latent.models[0], x, posterior, epsilon)));
        return [found.loss, found.lossError, found.bound, found.boundError];
        """,
        noise.tolist(),
    )
    draws = of_numpy(stored[0], np.repeat(digits[:1], 50, axis=0), noise)
    largest = draws["logWeight"].max()
    ratios = np.exp(draws["logWeight"] - largest)
    losses = draws["reconstruction"]
    expected = [
        losses.mean(),
        losses.std(ddof=1) / 50**0.5,
        -largest - np.log(ratios.mean()),
        ratios.std(ddof=1) / 50**0.5 / ratios.mean(),
    ]
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


def test_map_has_the_posterior_means(chrome, stored):
    images, _ = vae_keras.load_mnist("test[:2000]")
    for model, networks in enumerate(stored):
        received = chrome.execute_script(
            "return [...latent.models[arguments[0]].means]", model
        )
        expected, _ = weights.encode(networks, images.reshape(2000, -1))
        np.testing.assert_allclose(
            np.reshape(received, (2000, 2)), expected, atol=0.51 / 256
        )


# === Mouse, finger, keys ===


def state(chrome, name):
    return chrome.execute_script(f"return latent.state.{name}")


def element(chrome, name):
    found = chrome.find_element("id", name)
    chrome.execute_script("arguments[0].scrollIntoView()", found)
    return found


def offset(canvas, z):
    """Where z lies from the middle of the map, in CSS pixels."""
    unit = canvas.size["width"] / 8
    return round(z[0] * unit), round(-z[1] * unit)


def pixels(chrome, name):
    """The red of all pixels of a canvas."""
    return np.array(
        chrome.execute_script(
            """
            const canvas = document.getElementById(arguments[0]);
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d")
              .getImageData(0, 0, width, height);
            return [...data.filter((_, i) => i % 4 === 0)];
            """,
            name,
        )
    )


def as_drawn(probabilities):
    """The red of pixels between the page's light paper and its ink."""
    return 0xFF + (0x1C - 0xFF) * probabilities


def actions(chrome):
    from selenium.webdriver import ActionChains

    return ActionChains(chrome, duration=50)


def press(chrome, *names):
    from selenium.webdriver import Keys

    keys = [getattr(Keys, name) for name in names]
    chain = actions(chrome)
    for key in keys[:-1]:
        chain.key_down(key)
    chain.send_keys(keys[-1])
    for key in keys[:-1]:
        chain.key_up(key)
    chain.perform()


def test_pointer_decodes_where_it_is(browser, chrome, stored):
    canvas = element(chrome, "map")
    actions(chrome).move_to_element_with_offset(
        canvas, *offset(canvas, (1, -0.5))
    ).perform()
    z = state(chrome, "z")
    np.testing.assert_allclose(z, (1, -0.5), atol=0.02)
    browser.wait_for(chrome, "!latent.state.isNew")
    logits = weights.decode(stored[0], np.array([z]))[0]
    expected = as_drawn(1 / (1 + np.exp(-logits)))
    assert np.abs(pixels(chrome, "decoded") - expected).max() <= 0.51
    assert "nearest test digits" in element(chrome, "where").text


def test_drag_is_a_walk(browser, chrome):
    canvas = element(chrome, "map")
    start, end = offset(canvas, (-1, 0)), offset(canvas, (1.5, 1))
    chain = actions(chrome).move_to_element_with_offset(canvas, *start)
    chain.click_and_hold()
    chain.move_by_offset(end[0] - start[0], end[1] - start[1])
    chain.release().perform()
    label = element(chrome, "walk").get_attribute("aria-label")
    numbers = re.findall(r"[−\d.]+\d", label)
    walk = [float(number.replace("−", "-")) for number in numbers]
    np.testing.assert_allclose(walk, (-1, 0, 1.5, 1), atol=0.03)
    browser.wait_for(chrome, "latent.state.walk === null")
    np.testing.assert_allclose(state(chrome, "z"), (1.5, 1), atol=0.03)


def test_finger_decodes_where_it_is(chrome):
    box = element(chrome, "map").rect
    top = chrome.execute_script("return scrollY")
    width = box["width"]

    def touch(kind, z=None):
        points = []
        if z is not None:
            x = box["x"] + width * (0.5 + z[0] / 8)
            y = box["y"] - top + width * (0.5 - z[1] / 8)
            points = [{"x": x, "y": y}]
        chrome.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
        )

    touch("touchStart", (-2, 1))
    np.testing.assert_allclose(state(chrome, "z"), (-2, 1), atol=0.03)
    touch("touchMove", (-1.9, 1.1))
    np.testing.assert_allclose(state(chrome, "z"), (-1.9, 1.1), atol=0.03)
    touch("touchEnd")
    assert state(chrome, "walk") is None  # Too short for one.


def test_keys_move_and_walk(browser, chrome):
    chrome.execute_script("document.getElementById('map').focus()")
    press(chrome, "ARROW_RIGHT")
    press(chrome, "ARROW_UP")
    np.testing.assert_allclose(state(chrome, "z"), (0.1, 0.1), atol=1e-9)
    press(chrome, "SHIFT", "ARROW_LEFT")
    np.testing.assert_allclose(state(chrome, "z"), (-0.4, 0.1), atol=1e-9)
    press(chrome, "HOME")
    assert state(chrome, "z") == [0, 0]
    press(chrome, "ENTER")
    press(chrome, "SHIFT", "ARROW_DOWN")
    press(chrome, "ENTER")
    assert state(chrome, "walk")["to"] == [0, -0.5]
    browser.wait_for(chrome, "latent.state.walk === null")
    assert state(chrome, "z") == [0, -0.5]


def test_grid_is_drawn_on_demand(browser, chrome):
    before = pixels(chrome, "map")
    button = element(chrome, "grid")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    browser.wait_for(chrome, "latent.state.cells === 225")
    browser.wait_for(chrome, "!latent.state.isNew")
    assert np.mean(pixels(chrome, "map") != before) > 0.1
    button.click()
    assert button.get_attribute("aria-pressed") == "false"


def test_slider_changes_the_model(browser, chrome):
    models = chrome.execute_script("return latent.contents.models")
    chrome.execute_script("document.getElementById('beta').focus()")
    for index in (1, 2):
        press(chrome, "ARROW_RIGHT")
        browser.wait_for(chrome, "latent.state.fade === null")
        beta = element(chrome, "beta")
        assert (
            beta.get_attribute("aria-valuetext") == f"β = {build.BETAS[index]}"
        )
        shown = [
            float(element(chrome, f"test-{name}").text)
            for name in ("reconstruction", "kl", "elbo")
        ]
        np.testing.assert_allclose(shown, models[index]["test"], atol=0.051)
        received = chrome.execute_script(
            "const model = latent.models[arguments[0]];"
            "const { mean } = latent.encode(model, latent.state.x);"
            "return [latent.state.means, model.means, mean,"
            " latent.state.posterior.mean].map((array) => [...array])",
            index,
        )
        np.testing.assert_array_equal(received[0], received[1])
        np.testing.assert_array_equal(received[2], received[3])
    assert models[2]["test"][1] < models[0]["test"][1]


def test_test_digits_can_be_picked(browser, chrome, digits):
    labels = chrome.execute_script("return [...latent.labels]")
    chrome.execute_script("latent.state.picked = null")
    chrome.find_element("css selector", "[data-digit='4']").click()
    first = labels.index(4)
    assert state(chrome, "picked") == first
    np.testing.assert_array_equal(
        chrome.execute_script("return [...latent.state.x]"), digits[first]
    )
    browser.wait_for(chrome, "latent.state.draws.length === 5000")
    text = element(chrome, "rank").text
    assert text.startswith(f"Test digit {first}, a 4: ")
    values = {
        name: float(element(chrome, name).text.split(" ")[0])
        for name in ("reconstruction", "kl", "elbo", "bound", "bound-5000")
    }
    total = values["reconstruction"] + values["kl"]
    assert abs(total - values["elbo"]) < 0.11
    assert values["bound"] == values["bound-5000"] <= values["elbo"]


def test_drawing_is_placed_as_in_mnist(browser, chrome):
    element(chrome, "clear").click()
    browser.wait_for(chrome, "rank.textContent.startsWith('A blank page: ')")
    assert "so it is cheap" in element(chrome, "rank").text
    assert state(chrome, "x") == [0] * 784
    pad = element(chrome, "pad")
    side = pad.size["width"]
    # An L in a corner of the pad, whose ink is not in its middle.
    chain = actions(chrome).move_to_element_with_offset(
        pad, round(-0.4 * side), round(-0.4 * side)
    )
    chain.click_and_hold().move_by_offset(0, round(0.4 * side))
    chain.move_by_offset(round(0.25 * side), 0).release().perform()
    x = np.array(chrome.execute_script("return [...latent.state.x]"))
    image = x.reshape(28, 28)
    rows = np.nonzero(image > 0.2)[0]
    assert 18 <= np.ptp(rows) + 1 <= 21
    for axis in (0, 1):
        middle = np.sum(image.sum(axis=1 - axis) * (np.arange(28) + 0.5))
        assert abs(middle / image.sum() - 14) < 0.3
    assert np.abs(pixels(chrome, "seen") - as_drawn(x)).max() <= 0.51
    browser.wait_for(chrome, "latent.state.draws.length === 5000")
    assert element(chrome, "rank").text.startswith("Your drawing: ")
    element(chrome, "clear").click()
    assert state(chrome, "strokes") == []


def test_drawing_with_keys(chrome):
    element(chrome, "clear").click()
    chrome.execute_script("document.getElementById('pad').focus()")
    press(chrome, "SPACE")
    for _ in range(5):
        press(chrome, "ARROW_DOWN")
    press(chrome, "SPACE")
    press(chrome, "ARROW_LEFT")
    (stroke,) = state(chrome, "strokes")
    np.testing.assert_allclose(stroke[-1], (0.5, 0.5 + 5 / 28))
    assert max(state(chrome, "x")) > 0.9
    press(chrome, "DELETE")
    assert state(chrome, "strokes") == []


def test_everything_has_a_name_for_screen_readers(chrome):
    nameless = chrome.execute_script(
        """
        return [...document.querySelectorAll(
          "canvas, button, input, [role=application]")].filter((element) =>
            !element.getAttribute("aria-label") &&
            !element.textContent.trim() && !element.labels?.length
          ).map((element) => element.outerHTML);
        """
    )
    assert nameless == []
    missing = chrome.execute_script(
        """
        return [...document.querySelectorAll("[aria-describedby]")].filter(
          (element) => !document.getElementById(
            element.getAttribute("aria-describedby"))).length;
        """
    )
    assert missing == 0


def test_where_the_point_is_can_be_heard(browser, chrome):
    chrome.execute_script("latent.moveTo([2, 2])")
    browser.wait_for(
        chrome,
        "spoken.textContent.startsWith('z = (2.00, 2.00)')",
    )


# === All of it ===


def test_telephone_and_dark_colours(browser, path):
    with browser.opened(path, 400, 800, dark=True) as chrome:
        width = "return document.documentElement.scrollWidth"
        assert chrome.execute_script(width) <= 400
        background, ink = chrome.execute_script(
            "const style = getComputedStyle(document.body);"
            "return [style.backgroundColor, style.color]"
        )
        assert background == "rgb(21, 25, 29)"
        assert ink == "rgb(232, 236, 239)"
        assert pixels(chrome, "decoded").min() >= 21


def test_nothing_leaves_the_page(browser, path):
    with browser.opened(path) as chrome:
        chrome.find_element("css selector", "[data-digit='3']").click()
        chrome.find_element("id", "clear").click()
        chrome.execute_script("latent.setModel(2)")
        browser.wait_for(chrome, "latent.state.draws.length === 5000")
        asked = [
            address
            for address in browser.requests(chrome)
            if not address.startswith(("data:", "blob:"))
        ]
        assert asked == [path.resolve().as_uri()]
        assert chrome.get_log("browser") == []
