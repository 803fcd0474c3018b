"""The pieces run on another backend; the models say that they do not."""

import importlib.util
import inspect
import json

import keras
import numpy as np
import pytest

import vae_keras
from tests.helpers import run_python


def computed(kind):
    """Both losses and the noise, for networks of given weights."""
    x = np.random.default_rng(0).random((4, 28, 28, 1)).astype("float32")
    encoder = getattr(vae_keras, f"{kind}_encoder")((28, 28, 1), 2)
    decoder = getattr(vae_keras, f"{kind}_decoder")(2, (28, 28, 1))
    for network in (encoder, decoder):
        for weight in network.weights:
            values = np.cos(np.arange(np.prod(weight.shape)))
            weight.assign(values.reshape(weight.shape) / len(weight.shape) / 9)
    z_mean, z_log_var = encoder(x)
    z = vae_keras.Sampling(seed=3)((z_mean, z_log_var))
    return (
        vae_keras.gaussian_kl(z_mean, z_log_var),
        vae_keras.bernoulli_nll(x, decoder(z_mean)),
        (z - z_mean) / keras.ops.exp(0.5 * z_log_var),
    )


CHILD = f"""
import json

import keras
import numpy as np

import vae_keras

{inspect.getsource(computed)}

assert keras.backend.backend() == "jax"
report = {{}}
for kind in ("mlp", "conv"):
    values = computed(kind)
    assert type(values[2]).__module__.startswith("jax")
    report[kind] = [np.asarray(value).tolist() for value in values]
encoder = vae_keras.mlp_encoder((28, 28, 1), 2)
decoder = vae_keras.mlp_decoder(2, (28, 28, 1))
try:
    vae_keras.VAE(encoder, decoder)
except Exception as error:
    report["error"] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report():
    output = run_python(CHILD, KERAS_BACKEND="jax")
    return json.loads(output.splitlines()[-1])


def needs_jax(test):
    missing = importlib.util.find_spec("jax") is None
    reason = "JAX comes with the extra `peers`"
    return pytest.mark.slow(pytest.mark.skipif(missing, reason=reason)(test))


@needs_jax
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_jax_computes_what_tensorflow_computes(report, kind):
    *losses, noise = map(np.array, report[kind])
    for received, expected in zip(losses, computed(kind)[:2], strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-3)
    assert noise.shape == (4, 2)
    assert 0.1 < np.abs(noise).mean() < 3


@needs_jax
def test_models_say_that_they_need_tensorflow(report):
    assert report["error"].startswith("ValueError: Expected Keras to run on")
    assert "Received: the backend jax" in report["error"]


def test_models_say_it_on_any_other_backend(small_vae, monkeypatch, tmp_path):
    small_vae().save(tmp_path / "vae.keras")
    networks = [vae_keras.mlp_encoder((8, 8, 1), 2), None]
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for make in (
        small_vae,
        lambda: vae_keras.baselines.Autoencoder(*networks),
        lambda: vae_keras.baselines.GAN(*networks),
        lambda: keras.saving.load_model(tmp_path / "vae.keras"),
    ):
        message = r"backend torch\. Set KERAS_BACKEND"
        with pytest.raises((ValueError, TypeError), match=message):
            make()
