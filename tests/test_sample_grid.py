"""Pictures of a training: what is on them, what they are called."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.helpers import tiles_of
from vae_keras.callbacks import CollapseMonitor, KLWarmUp, SampleGrid

SHAPE = (8, 6, 1)
LABELS = np.array([2, 0, 1, 1, 2])


def dense(end, shape=SHAPE, latent_dim=2, **kwargs):
    kwargs = {"image_shape": shape, "latent_dim": latent_dim, **kwargs}
    return getattr(vae_keras, f"mlp_{end}coder")(hidden_units=(16,), **kwargs)


def spatial_vae():
    sizes = {"filters": 4, "depth": 1}
    return vae_keras.SpatialVAE(
        vae_keras.spatial.spatial_encoder(SHAPE, 2, **sizes),
        vae_keras.spatial.spatial_decoder(2, SHAPE, **sizes),
    )


def discrete_vae():
    sizes = {"dim": 3, "filters": 4, "depth": 1}
    return vae_keras.DiscreteVAE(
        vae_keras.discrete.discrete_encoder(SHAPE, **sizes),
        vae_keras.discrete.discrete_decoder(SHAPE, **sizes),
        quantizer=6,
    )


MODELS = {
    "VAE": lambda: vae_keras.VAE(dense("en"), dense("de"), seed=1),
    "ConditionalVAE": lambda: vae_keras.ConditionalVAE(
        dense("en", num_classes=3), dense("de", num_classes=3)
    ),
    "SpatialVAE": spatial_vae,
    "DiscreteVAE": discrete_vae,
    "Autoencoder": lambda: vae_keras.baselines.Autoencoder(
        dense("en"), dense("de")
    ),
    "GAN": lambda: vae_keras.baselines.GAN(
        dense("de"), dense("en", latent_dim=1)
    ),
}


@pytest.fixture
def pictures(images):
    """Middles of digits."""
    return images[:64, 10:18, 11:17]


def compiled(name="VAE", learning_rate=0.01, **kwargs):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.compile(keras.optimizers.SGD(learning_rate), **kwargs)
    return model


def fit(model, pictures, *callbacks, **kwargs):
    kwargs = {"verbose": 0, "callbacks": list(callbacks), **kwargs}
    return model.fit(pictures, **kwargs).history


def names_in(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def decoded(path):
    return tf.io.decode_png(path.read_bytes()).numpy()


def tiles_in(path, rows, columns, shape=SHAPE):
    """The images of a picture, bytes `(rows, columns, *shape)`."""
    picture = decoded(path)
    tiles = tiles_of(picture, rows, columns, shape)
    assert tiles.shape == (rows, columns, *shape)
    assert np.all(picture[shape[0] :: shape[0] + 1] == 255)
    assert np.all(picture[:, shape[1] :: shape[1] + 1] == 255)
    return tiles


# === The pictures ===


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_shows_the_model_of_its_epoch(pictures, tmp_path, name):
    model = compiled(name)
    few = pictures[:5]
    labels = None if model.num_classes is None else LABELS
    y = None if labels is None else np.arange(64) % 3
    grid = SampleGrid(few, tmp_path, labels=labels)
    fit(model, pictures, grid, y=y, epochs=2)
    assert names_in(tmp_path) == ["epoch-0001.png", "epoch-0002.png"]
    rows = [few]
    if name != "GAN":
        x = few if labels is None else (few, labels)
        rows.append(model.predict(x, verbose=0))
    if name != "Autoencoder":
        rows.append(model.generate(5, labels=labels, seed=0))
    tiles = tiles_in(tmp_path / "epoch-0002.png", len(rows), 5)
    np.testing.assert_allclose(tiles, 255 * np.array(rows), atol=0.51)
    before = tiles_in(tmp_path / "epoch-0001.png", len(rows), 5)
    assert np.array_equal(before[0], tiles[0])
    for row in range(1, len(rows)):
        assert not np.array_equal(before[row], tiles[row])


def test_the_samples_of_two_trainings_compare(pictures, tmp_path):
    vae = compiled(learning_rate=0.0)
    for name in ("one", "two"):
        grid = SampleGrid(pictures[:4], tmp_path / name)
        fit(vae, pictures, grid, epochs=2)
    files = [*tmp_path.glob("*/epoch-000?.png")]
    assert len(files) == 4
    assert len({path.read_bytes() for path in files}) == 1
    samples = tiles_in(files[0], 3, 4)[2]
    assert len({tile.tobytes() for tile in samples}) == 4


@pytest.mark.parametrize("channels", [2, 3])
def test_colour_is_kept_and_two_channels_are_none(images, tmp_path, channels):
    shape = (8, 6, channels)
    x = [images[k : k + 20, 10:18, 11:17, 0] for k in range(channels)]
    x = np.stack(x, axis=-1)
    vae = vae_keras.VAE(dense("en", shape), dense("de", shape))
    vae.compile("sgd")
    grid = SampleGrid(tf.constant(x[:2]), tmp_path)
    if channels == 2:
        with pytest.raises(ValueError, match="1 or 3"):
            fit(vae, x, grid)
        assert int(vae.optimizer.iterations) == 0
        return
    fit(vae, x, grid)
    tiles = tiles_in(tmp_path / "epoch-0001.png", 3, 2, shape)
    np.testing.assert_allclose(tiles[0], 255 * x[:2], atol=0.51)


def test_nan_is_white_and_the_training_ends_as_it_would_have(
    pictures, tmp_path
):
    vae = compiled(learning_rate=np.inf)
    grid = SampleGrid(pictures[:2], tmp_path)
    stop = keras.callbacks.TerminateOnNaN()
    fit(vae, pictures, grid, stop, epochs=3)
    tiles = tiles_in(tmp_path / "epoch-0001.png", 3, 2)
    assert np.all(tiles[1:] == 255)
    assert names_in(tmp_path) == ["epoch-0001.png"]


# === Their names ===


def test_every_third_epoch(pictures, tmp_path):
    vae = compiled()
    grid = SampleGrid(pictures[:2], tmp_path / "a" / "b", every=3)
    fit(vae, pictures, grid, epochs=7)
    fit(vae, pictures, grid, initial_epoch=7, epochs=10)
    expected = [f"epoch-000{k}.png" for k in (3, 6, 9)]
    assert names_in(tmp_path / "a" / "b") == expected


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_that_was_cut_short_goes_on_exactly(pictures, tmp_path):
    """Pictures, the weight of the KL term, losses and weights."""

    def new_vae(seed):
        keras.utils.set_random_seed(seed)
        vae = MODELS["VAE"]()
        vae.compile(keras.optimizers.SGD(1e-3, momentum=0.9))
        return vae

    def run(folder, *callbacks, seed=0, initial_epoch=0):
        vae = new_vae(seed)
        data = vae_keras.image_dataset(
            pictures, 20, seed=0, initial_epoch=initial_epoch
        )
        grid = SampleGrid(pictures[:4], tmp_path / folder)
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"{folder}-backup")
        callbacks = KLWarmUp(3), grid, backup, *callbacks
        return vae, fit(vae, data, *callbacks, epochs=4)

    whole, expected = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", Stop())
    assert names_in(tmp_path / "cut") == ["epoch-0001.png", "epoch-0002.png"]
    # Weights, optimizer and noise come from the backup, not from the seed.
    vae, logs = run("cut", seed=1, initial_epoch=2)
    for name in ("beta", "loss"):
        assert logs[name] == expected[name][2:], name
    for a, b in zip(vae.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert names_in(tmp_path / "cut") == names_in(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


# === What goes on around them ===


@pytest.mark.slow
def test_drawing_does_not_change_the_training(pictures, tmp_path):
    results = []
    for callbacks in ([], [SampleGrid(pictures[:4], tmp_path)]):
        # The global generator starts anew, which some Keras leave to this.
        keras.utils.clear_session()
        vae = compiled()
        validation = {"validation_data": pictures[:20]}
        logs = fit(vae, pictures, *callbacks, epochs=3, **validation)
        states = [v.numpy() for v in (*vae.variables, *vae.optimizer.variables)]
        states.append(keras.random.normal((2,)).numpy())
        results.append((logs, states))
    assert names_in(tmp_path) == [f"epoch-000{k}.png" for k in (1, 2, 3)]
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_callbacks_together(pictures, tmp_path):
    vae = compiled(steps_per_execution=2)
    logs = fit(
        vae,
        pictures,
        KLWarmUp(2),
        CollapseMonitor(pictures[:9]),
        keras.callbacks.EarlyStopping("active_units", mode="max", patience=1),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:04}.keras"),
        SampleGrid(pictures[:3], tmp_path / "grid"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TensorBoard(tmp_path / "logs", write_graph=False),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        epochs=9,
        validation_data=pictures[:20],
    )
    # EarlyStopping has read a number that did not grow after the first.
    assert names_in(tmp_path / "grid") == ["epoch-0001.png", "epoch-0002.png"]
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    for name in ("beta", "active_units", "val_loss"):
        np.testing.assert_allclose(log[name], logs[name], err_msg=name)
    # The checkpoint of an epoch is the model that its picture shows.
    saved = keras.saving.load_model(tmp_path / "0001.keras")
    tiles = tiles_in(tmp_path / "grid" / "epoch-0001.png", 3, 3)
    expected = 255 * saved.predict(pictures[:3], verbose=0)
    np.testing.assert_allclose(tiles[1], expected, atol=0.51)


@pytest.mark.parametrize("update_freq", [None, 1000])
def test_tensorboard_has_the_same_pictures(pictures, tmp_path, update_freq):
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    folder, log_dir = tmp_path / "grid", tmp_path / "logs"
    callbacks = [SampleGrid(pictures[:3], folder, 2, log_dir)]
    if update_freq is not None:
        board = keras.callbacks.TensorBoard(
            tmp_path / "others", update_freq=update_freq
        )
        callbacks.insert(0, board)
    fit(compiled(), pictures, *callbacks, epochs=4)
    (events,) = log_dir.iterdir()
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    received = accumulator.Tensors("sample_grid")
    assert [event.step for event in received] == [1, 3]
    for event in received:
        width, height, png = event.tensor_proto.string_val
        expected = decoded(folder / f"epoch-{event.step + 1:04}.png")
        assert (int(height), int(width)) == expected.shape[:2]
        assert np.array_equal(tf.io.decode_png(png), expected)


@pytest.mark.parametrize("step", ["write", "move"])
def test_a_picture_is_whole_or_not_there(pictures, tmp_path, monkeypatch, step):
    grid = SampleGrid(pictures[:2], tmp_path)
    fit(compiled(), pictures, grid)
    before = (tmp_path / "epoch-0001.png").read_bytes()

    def fail(*args):
        if step == "write":
            write(args[0], args[1][:20])
        raise OSError("No space left on device")

    write = pathlib.Path.write_bytes
    if step == "write":
        monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        fit(compiled(), 1 - pictures, grid, epochs=2)
    assert names_in(tmp_path) == ["epoch-0001.png"]
    assert (tmp_path / "epoch-0001.png").read_bytes() == before


def test_only_the_chief_of_several_workers_writes(
    pictures, tmp_path, monkeypatch
):
    strategy = tf.distribute.get_strategy()
    grid = SampleGrid(pictures[:2], tmp_path / "grid", 1, tmp_path / "logs")
    for is_chief in (False, True):
        monkeypatch.setattr(
            type(strategy.extended), "should_checkpoint", is_chief
        )
        fit(compiled(), pictures, grid)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == (2 if is_chief else 0), files


# === Refusals ===


def test_a_file_is_no_folder(pictures, tmp_path):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")
    vae = compiled()
    with pytest.raises(ValueError, match=r"Expected `folder`.*grid\.png"):
        fit(vae, pictures, SampleGrid(pictures[:2], path))
    assert int(vae.optimizer.iterations) == 0
    assert path.read_bytes() == b"old"


def test_other_models_are_refused(pictures, tmp_path):
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    grid = SampleGrid(pictures[:2], tmp_path)
    with pytest.raises(ValueError, match=r"`vae_keras`.*Received: Sequential"):
        model.fit(pictures, pictures, verbose=0, callbacks=[grid])
    assert int(model.optimizer.iterations) == 0
