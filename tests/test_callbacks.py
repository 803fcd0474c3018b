"""The weight of the KL term, epoch by epoch, and what collapse looks like."""

import keras
import numpy as np
import pytest

import vae_keras

GRAPH = {"jit_compile": False}


def fit(vae, images, *callbacks, **kwargs):
    """Trains on batches in an order that depends on the epoch alone."""
    data = vae_keras.image_dataset(
        images[:80], 20, seed=0, initial_epoch=kwargs.get("initial_epoch", 0)
    )
    kwargs = {"verbose": 0, "callbacks": list(callbacks), **kwargs}
    return vae.fit(data, **kwargs).history


def wide(vae, factor=3.0):
    """Weights large enough for a KL term of some nats."""
    vae.encoder.set_weights([factor * w for w in vae.encoder.get_weights()])
    return vae


def collapsed(vae):
    """An encoder that gives N(0, I) for every image."""
    for name in ("z_mean", "z_log_var"):
        layer = vae.encoder.get_layer(name)
        layer.set_weights([0 * w for w in layer.get_weights()])
    vae.compile(keras.optimizers.SGD(0.0), **GRAPH)
    return vae


# === KLWarmUp ===


@pytest.mark.parametrize(
    "mode",
    [
        GRAPH,
        {"jit_compile": True, "steps_per_execution": 3},
        {"run_eagerly": True},
    ],
    ids=["graph", "xla, 3 steps", "eager"],
)
def test_weight_rises_in_a_straight_line(small_vae, images, mode):
    vae = wide(small_vae(beta=2.0))
    vae.compile(keras.optimizers.SGD(1e-4), **mode)
    logs = fit(
        vae,
        images,
        vae_keras.KLWarmUp(4),
        epochs=6,
        validation_data=images[:40],
    )
    assert logs["beta"] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    logs = {name: np.array(values) for name, values in logs.items()}
    assert logs["kl_loss"].min() > 0.1
    # The steps themselves take this weight, those of validation the whole.
    np.testing.assert_allclose(
        logs["loss"],
        logs["reconstruction_loss"] + logs["beta"] * logs["kl_loss"],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        logs["val_loss"],
        logs["val_reconstruction_loss"] + 2 * logs["val_kl_loss"],
        rtol=1e-5,
    )


def test_warm_up_does_not_trace_again(small_vae, images):
    traces = []

    class Counted(vae_keras.VAE):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    small = small_vae()
    vae = Counted(small.encoder, small.decoder)
    vae.compile("sgd", **GRAPH)
    fit(vae, images, vae_keras.KLWarmUp(3), epochs=4)
    assert len(traces) == 1


def test_a_later_fit_has_the_weight_of_its_epoch(small_vae, images):
    vae = small_vae(beta=4.0)
    vae.compile("adam", **GRAPH)
    warm_up = vae_keras.KLWarmUp(4)
    assert fit(vae, images, warm_up, epochs=2)["beta"] == [0.0, 1.0]
    logs = fit(vae, images, warm_up, initial_epoch=3, epochs=5)
    assert logs["beta"] == [3.0, 4.0]
    assert float(vae.beta) == vae.target_beta


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_cut_short_resumes_exactly(small_vae, images, tmp_path):
    def new_vae():
        keras.utils.set_random_seed(0)
        vae = small_vae(seed=1)
        vae.compile("adam", **GRAPH)
        return vae

    whole = new_vae()
    expected = fit(whole, images, vae_keras.KLWarmUp(3), epochs=5)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(new_vae(), images, vae_keras.KLWarmUp(3), backup, Stop(), epochs=5)
    vae = small_vae()  # Its weights and its noise come from the backup.
    vae.compile("adam", **GRAPH)
    data = vae_keras.image_dataset(images[:80], 20, seed=0, initial_epoch=2)
    logs = vae.fit(
        data, epochs=5, verbose=0, callbacks=[vae_keras.KLWarmUp(3), backup]
    ).history
    assert logs["beta"] == expected["beta"][2:]
    assert logs["loss"] == expected["loss"][2:]
    for a, b in zip(vae.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("num_epochs", [0, -1, 2.5, "3", True, None, [3]])
def test_warm_up_refuses(num_epochs):
    with pytest.raises(
        ValueError, match=r"Expected `num_epochs` to be .*Received: num_epochs="
    ):
        vae_keras.KLWarmUp(num_epochs)


# === CollapseMonitor ===


def test_monitor_measures_after_each_epoch(small_vae, images):
    expected = []

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            measured = (
                vae_keras.active_units(vae, images),
                vae_keras.kl_per_dimension(vae, images),
            )
            expected.append(measured)

    vae = small_vae()
    vae.compile("adam", jit_compile=True, steps_per_execution=2)
    monitor = vae_keras.CollapseMonitor(images)
    for _ in range(2):  # Each `fit` begins a new record.
        expected.clear()
        logs = fit(vae, images, monitor, Measure(), epochs=2)
        units, kl = zip(*expected, strict=True)
        assert logs["active_units"] == list(units) == [2, 2]
        np.testing.assert_array_equal(monitor.kl_per_dimension, kl)


def test_monitoring_does_not_change_the_training(small_vae, images):
    results = []
    for callbacks in ([], [vae_keras.CollapseMonitor(images[100:])]):
        keras.utils.set_random_seed(0)
        vae = small_vae(seed=1)
        vae.compile("adam", **GRAPH)
        fit(vae, images, *callbacks, epochs=2, validation_data=images[:20])
        results.append(vae.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_collapse_is_said_once_in_each_fit(small_vae, images, capsys):
    vae = collapsed(small_vae())
    monitor = vae_keras.CollapseMonitor(images)
    for _ in range(2):
        logs = fit(vae, images, monitor, epochs=3)
        assert logs["active_units"] == [0, 0, 0]
        (line,) = capsys.readouterr().out.strip().splitlines()
        assert line == (
            "Epoch 1: the posterior has collapsed, none of 2 latent "
            "dimensions is active (KL 0 nats); train again with "
            "`vae_keras.KLWarmUp`, a smaller `beta` or a lower learning rate."
        )


def test_collapse_through_training(small_vae, images, capsys):
    """The article's weight of the KL term, 784 pixels × 64 examples."""
    vae = small_vae(beta=784 * 64)
    vae.compile(keras.optimizers.Adam(1e-2), **GRAPH)
    logs = fit(vae, images, vae_keras.CollapseMonitor(images), epochs=8)
    assert logs["active_units"][-1] == 0
    first = logs["active_units"].index(0) + 1
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith(f"Epoch {first}: the posterior has collapsed")


def test_a_model_in_use_is_passed_over_in_silence(small_vae, images, capsys):
    vae = small_vae()
    vae.compile("adam", **GRAPH)
    fit(vae, images, vae_keras.CollapseMonitor(images), epochs=2)
    # One of two dimensions is no collapse.
    layer = vae.encoder.get_layer("z_mean")
    layer.set_weights([w * np.array([1, 0]) for w in layer.get_weights()])
    vae.compile(keras.optimizers.SGD(0.0), **GRAPH)
    logs = fit(vae, images, vae_keras.CollapseMonitor(images), epochs=1)
    assert logs["active_units"] == [1]
    assert capsys.readouterr().out == ""


def test_a_training_that_diverges_ends_as_it_would_have(small_vae, images):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                layer = vae.encoder.get_layer("z_mean")
                layer.bias.assign([np.nan, 0])

    vae = small_vae()
    vae.compile("adam", **GRAPH)
    monitor = vae_keras.CollapseMonitor(images)
    stop = keras.callbacks.TerminateOnNaN()
    logs = fit(vae, images, monitor, stop, Spoil(), epochs=3)
    assert logs["active_units"] == [2]
    assert len(logs["loss"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 255 * x, "Expected images.*divide by 255"),
        (lambda x: x[:, ::2], r"Expected images.*Received: shape.*Resize"),
        (lambda x: x[:1], "two images or more.*Received: 1"),
        (lambda x: list(x), "Expected images.*Received: list"),
    ],
)
def test_images_are_refused_before_the_first_step(
    small_vae, images, change, message
):
    vae = small_vae()
    vae.compile("adam")
    with pytest.raises(ValueError, match=message):
        fit(vae, images, vae_keras.CollapseMonitor(change(images)))
    assert int(vae.optimizer.iterations) == 0


# === Both ===


@pytest.mark.parametrize("name", ["KLWarmUp", "CollapseMonitor"])
def test_other_models_are_refused(images, name):
    model = vae_keras.Autoencoder(
        vae_keras.mlp_encoder((28, 28, 1), 2, (8,)),
        vae_keras.mlp_decoder(2, (28, 28, 1), (8,)),
    )
    model.compile("adam")
    argument = 3 if name == "KLWarmUp" else images
    message = rf"Expected a `VAE`.*`{name}`.*Received: Autoencoder.*out"
    with pytest.raises(ValueError, match=message):
        fit(model, images, getattr(vae_keras, name)(argument))
    assert int(model.optimizer.iterations) == 0


def test_callbacks_together(small_vae, images, tmp_path):
    vae = small_vae()
    vae.compile("adam", **GRAPH)
    logs = fit(
        vae,
        images,
        vae_keras.KLWarmUp(2),
        vae_keras.CollapseMonitor(images[100:]),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("active_units", mode="max", patience=1),
        epochs=9,
        validation_data=images[:20],
    )
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(log["beta"], logs["beta"])
    np.testing.assert_array_equal(log["active_units"], logs["active_units"])
    # EarlyStopping read it too: the number did not grow after the first.
    assert len(log) == 2


def test_a_spatial_vae_is_monitored(images):
    vae = vae_keras.SpatialVAE((8, 8, 1), num_maps=2, filters=4, beta=0.5)
    vae.compile("adam", **GRAPH)
    x = images[:, 10:18, 10:18]
    monitor = vae_keras.CollapseMonitor(x)
    fit(vae, x, vae_keras.KLWarmUp(1), monitor)
    assert monitor.kl_per_dimension[0].shape == vae.latent_shape == (2, 2, 2)
