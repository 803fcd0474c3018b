"""The reparameterisation trick: moments, gradients, seeds and shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import run_python


def draw(shape=(2000, 5), seed=0, mean=0.0, log_var=0.0, **kwargs):
    """z for the same mean and variance everywhere."""
    sampling = vae_keras.Sampling(seed, **kwargs)
    return sampling((np.full(shape, mean), np.full(shape, log_var)))


@pytest.mark.parametrize("mean", [0.0, -3.0])
@pytest.mark.parametrize("log_var", [-2.0, 0.0, 1.5])
def test_mean_and_variance(mean, log_var):
    z = np.asarray(draw((20_000, 5), 0, mean, log_var), "float64")
    count, variance = z.size, np.exp(log_var)
    # 5 standard errors of the moments of a normal distribution.
    assert abs(z.mean() - mean) < 5 * np.sqrt(variance / count)
    noise = (z - mean) / np.sqrt(variance)
    assert abs(np.mean(noise**2) - 1) < 5 * np.sqrt(2 / count)
    assert abs(np.mean(noise**3)) < 5 * np.sqrt(15 / count)
    assert abs(np.mean(noise**4) - 3) < 5 * np.sqrt(96 / count)
    # Examples and latent dimensions are independent of each other.
    for one, other in [(noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])]:
        assert abs(np.mean(one * other)) < 5 / np.sqrt(one.size)


def test_each_element_has_its_own_mean_and_variance():
    z_mean = tf.constant([[1.0, -1.0], [10.0, 0.0]])
    z_log_var = tf.constant([[-200.0, -200.0], [-200.0, 0.0]])
    z = vae_keras.Sampling(0)((z_mean, z_log_var)).numpy()
    assert z.ravel()[:3].tolist() == [1, -1, 10]
    assert 0 < abs(z[1, 1]) < 5


def test_gradients_reach_both_inputs():
    z_mean = tf.Variable(tf.zeros((4, 3)))
    z_log_var = tf.Variable(tf.fill((4, 3), 0.7))
    with tf.GradientTape() as tape:
        z = vae_keras.Sampling(0)((z_mean, z_log_var))
        total = tf.reduce_sum(z)
    by_mean, by_log_var = tape.gradient(total, [z_mean, z_log_var])
    assert np.array_equal(by_mean, np.ones((4, 3)))
    # dz/d(log σ²) = ½ σ ε = ½ (z − μ).
    np.testing.assert_allclose(by_log_var, 0.5 * (z - z_mean), rtol=1e-6)
    assert np.all(by_log_var != 0)


def test_seed_makes_the_sequence():
    inputs = np.zeros((3, 2)), np.zeros((3, 2))
    one, same, other = (vae_keras.Sampling(seed) for seed in (7, 7, 8))
    first, second = one(inputs), one(inputs)
    assert not np.array_equal(first, second)
    assert np.array_equal(same(inputs), first)
    assert np.array_equal(same(inputs), second)
    assert not np.array_equal(other(inputs), first)
    # Without a seed Python's generator decides.
    first, second = draw((3, 2), None), draw((3, 2), None)
    keras.utils.set_random_seed(0)
    assert np.array_equal(draw((3, 2), None), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_is_new_in_each_call_of_a_compiled_graph(jit_compile):
    inputs = tf.zeros((3, 2)), tf.zeros((3, 2))
    runs = [
        tf.function(vae_keras.Sampling(0), jit_compile=jit_compile)
        for _ in range(2)
    ]
    first, second = runs[0](inputs), runs[0](inputs)
    assert not np.array_equal(first, second)
    assert np.array_equal(runs[1](inputs), first)
    # XLA has a generator of its own, the other graphs have not.
    if not jit_compile:
        assert np.array_equal(vae_keras.Sampling(0)(inputs), first)


@pytest.mark.parametrize("shape", [(3, 1), (3, 7), (2, 4, 5), (2, 3, 3, 8)])
def test_any_latent_shape(shape):
    assert draw(shape).shape == shape
    symbolic = keras.KerasTensor((None, *shape[1:]))
    z = vae_keras.Sampling()((symbolic, symbolic))
    assert z.shape == (None, *shape[1:])
    sampling = vae_keras.Sampling()
    assert sampling.compute_output_shape([shape, shape]) == shape
    assert sampling.weights == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_is_the_compute_dtype(dtype):
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    z = draw(dtype=policy)
    assert z.dtype == dtype
    z = tf.cast(z, "float64")
    # The type's own rounding of ε is symmetric and small.
    assert abs(np.mean(z)) < 5 / np.sqrt(10_000)
    assert abs(np.var(z) - 1) < 5 * np.sqrt(2 / 10_000)


@pytest.mark.parametrize("seed", [None, 0, 123])
def test_config_round_trip(seed):
    sampling = vae_keras.Sampling(seed, name="z", dtype="mixed_float16")
    again = vae_keras.Sampling.from_config(sampling.get_config())
    config = keras.saving.serialize_keras_object(sampling)
    assert config["registered_name"] == "vae_keras>Sampling"
    for copy in (again, keras.saving.deserialize_keras_object(config)):
        assert type(copy) is vae_keras.Sampling
        assert (copy.seed, copy.name) == (seed, "z")
        assert copy.get_config() == sampling.get_config()
        if seed is not None:
            inputs = np.zeros((3, 2)), np.zeros((3, 2))
            fresh = vae_keras.Sampling(seed, dtype="mixed_float16")
            assert np.array_equal(copy(inputs), fresh(inputs))


def test_a_model_with_it_is_saved_and_loaded(tmp_path):
    z_mean, z_log_var = keras.Input((2,)), keras.Input((2,))
    z = vae_keras.Sampling(3)((z_mean, z_log_var))
    model = keras.Model([z_mean, z_log_var], z)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    inputs = [np.ones((4, 2)), np.zeros((4, 2))]
    assert np.array_equal(loaded(inputs), model(inputs))


REPLICAS = """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
import vae_keras
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
zeros = tf.zeros((20_000, 2))
with strategy.scope():
    sampling = vae_keras.Sampling(0)

@tf.function
def run():
    return strategy.run(sampling, ((zeros, zeros),))

draws = [z for _ in range(2) for z in strategy.unwrap(run())]
assert len(draws) == 4
# Correlations of independent noise are N(0, 1/40,000).
for i, z in enumerate(draws):
    for other in draws[:i]:
        assert abs(tf.reduce_mean(z * other)) < 5 / 200, i
    assert abs(tf.math.reduce_std(z) - 1) < 0.02
assert (sampling((zeros, zeros)).numpy() != draws[0].numpy()).any()
print("independent")
"""


@pytest.mark.slow
def test_replicas_draw_noise_of_their_own():
    assert run_python(REPLICAS).split() == ["independent"]


def test_pairs_do_not_broadcast():
    layer = vae_keras.Sampling()
    assert layer.built
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\).*of its own"):
        layer((np.zeros((3, 2)), np.zeros((3, 1))))
