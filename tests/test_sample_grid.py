"""Pictures of a training: what is on them, what they are called."""

import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras

GRAPH = {"jit_compile": False}
SHAPE = (8, 6, 1)
NETWORKS = {
    "encoder": lambda shape=SHAPE: vae_keras.mlp_encoder(shape, 2, (16,)),
    "decoder": lambda shape=SHAPE: vae_keras.mlp_decoder(2, shape, (16,)),
    "discriminator": lambda: vae_keras.mlp_encoder(SHAPE, 1, (16,)),
}


def build(model_class, *names, **kwargs):
    return model_class(**{name: NETWORKS[name]() for name in names}, **kwargs)


MODELS = {
    "VAE": lambda: build(vae_keras.VAE, "encoder", "decoder", seed=1),
    "SpatialVAE": lambda: vae_keras.SpatialVAE(SHAPE, filters=4, depth=1),
    "Autoencoder": lambda: build(vae_keras.Autoencoder, "encoder", "decoder"),
    "GAN": lambda: build(vae_keras.GAN, "decoder", "discriminator"),
}


@pytest.fixture
def pictures(images):
    """Middles of digits."""
    return images[:64, 10:18, 11:17]


def compiled(name="VAE", optimizer="adam", **kwargs):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.compile(optimizer, **{**GRAPH, **kwargs})
    return model


def fit(model, pictures, *callbacks, **kwargs):
    kwargs = {"verbose": 0, "callbacks": list(callbacks), **kwargs}
    return model.fit(pictures, **kwargs).history


def names_in(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def decoded(path):
    return tf.io.decode_png(path.read_bytes()).numpy()


def tiles_of(path, rows, columns):
    """The images of a picture, bytes `(rows, columns, *SHAPE)`."""
    picture = decoded(path)
    height, width, channels = SHAPE
    assert picture.shape == (
        rows * (height + 1) - 1,
        columns * (width + 1) - 1,
        channels,
    )
    assert np.all(picture[height :: height + 1] == 255)
    assert np.all(picture[:, width :: width + 1] == 255)
    return np.array(
        [
            [
                picture[top : top + height, left : left + width]
                for left in range(0, picture.shape[1], width + 1)
            ]
            for top in range(0, picture.shape[0], height + 1)
        ]
    )


# === The pictures ===


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_shows_the_model_of_its_epoch(pictures, tmp_path, name):
    model = compiled(name, keras.optimizers.Adam(0.05))
    few = pictures[:5]
    fit(model, pictures, vae_keras.SampleGrid(few, tmp_path), epochs=2)
    assert names_in(tmp_path) == ["epoch-0001.png", "epoch-0002.png"]
    rows = [few]
    if name != "GAN":
        rows.append(model.predict(few, verbose=0))
    if name != "Autoencoder":
        rows.append(model.generate(5, seed=0))
    tiles = tiles_of(tmp_path / "epoch-0002.png", len(rows), 5)
    np.testing.assert_allclose(tiles, 255 * np.array(rows), atol=0.51)
    before = tiles_of(tmp_path / "epoch-0001.png", len(rows), 5)
    assert np.array_equal(before[0], tiles[0])
    for row in range(1, len(rows)):
        assert not np.array_equal(before[row], tiles[row])


def test_the_samples_of_two_trainings_compare(pictures, tmp_path):
    vae = compiled(optimizer=keras.optimizers.SGD(0.0))
    for name in ("one", "two"):
        grid = vae_keras.SampleGrid(pictures[:4], tmp_path / name)
        fit(vae, pictures, grid, epochs=2)
    files = [
        tmp_path / n / f"epoch-000{k}.png"
        for n in ("one", "two")
        for k in (1, 2)
    ]
    assert len({path.read_bytes() for path in files}) == 1
    samples = tiles_of(files[0], 3, 4)[2]
    assert len({tile.tobytes() for tile in samples}) == 4


def test_colour_is_kept(images, tmp_path):
    shape = (8, 6, 3)
    x = np.stack([images[k : k + 20, 10:18, 11:17, 0] for k in range(3)], -1)
    vae = vae_keras.VAE(NETWORKS["encoder"](shape), NETWORKS["decoder"](shape))
    vae.compile("adam", **GRAPH)
    fit(vae, x, vae_keras.SampleGrid(tf.constant(x[:2]), tmp_path))
    picture = decoded(tmp_path / "epoch-0001.png")
    assert picture.shape == (3 * 9 - 1, 2 * 7 - 1, 3)
    np.testing.assert_allclose(picture[:8, :6], 255 * x[0], atol=0.51)


def test_nan_is_white_and_the_training_ends_as_it_would_have(
    pictures, tmp_path
):
    vae = compiled(optimizer=keras.optimizers.SGD(np.inf))
    grid = vae_keras.SampleGrid(pictures[:2], tmp_path)
    stop = keras.callbacks.TerminateOnNaN()
    fit(vae, pictures, grid, stop, epochs=3)
    tiles = tiles_of(tmp_path / "epoch-0001.png", 3, 2)
    assert np.all(tiles[1:] == 255)
    assert names_in(tmp_path) == ["epoch-0001.png"]


# === Their names ===


def test_every_third_epoch(pictures, tmp_path):
    vae = compiled()
    grid = vae_keras.SampleGrid(pictures[:2], tmp_path / "a" / "b", every=3)
    fit(vae, pictures, grid, epochs=7)
    fit(vae, pictures, grid, initial_epoch=7, epochs=10)
    expected = [f"epoch-000{k}.png" for k in (3, 6, 9)]
    assert names_in(tmp_path / "a" / "b") == expected


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_cut_short_goes_on_with_its_pictures(pictures, tmp_path):
    def run(folder, *callbacks):
        grid = vae_keras.SampleGrid(pictures[:4], tmp_path / folder)
        backup = keras.callbacks.BackupAndRestore(tmp_path / f"{folder}-backup")
        fit(compiled(), pictures, grid, backup, *callbacks, **kwargs)

    # Keras's shuffling would not be the same after a restart.
    kwargs = {"epochs": 4, "batch_size": 64, "shuffle": False}
    run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", Stop())
    assert names_in(tmp_path / "cut") == ["epoch-0001.png", "epoch-0002.png"]
    run("cut")
    assert names_in(tmp_path / "cut") == names_in(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


# === What goes on around them ===


def test_drawing_does_not_change_the_training(pictures, tmp_path):
    results = []
    for callbacks in ([], [vae_keras.SampleGrid(pictures[:4], tmp_path)]):
        vae = compiled()
        logs = fit(
            vae,
            pictures,
            *callbacks,
            epochs=3,
            validation_data=pictures[:20],
        )
        states = [v.numpy() for v in (*vae.variables, *vae.optimizer.variables)]
        states.append(keras.random.normal((2,)).numpy())
        results.append((logs, states))
    assert names_in(tmp_path) == [f"epoch-000{k}.png" for k in (1, 2, 3)]
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_callbacks_together(pictures, tmp_path):
    vae = compiled(jit_compile=True, steps_per_execution=2)
    logs = fit(
        vae,
        pictures,
        keras.callbacks.EarlyStopping("val_loss", patience=9),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:04}.keras"),
        vae_keras.SampleGrid(pictures[:3], tmp_path / "grid"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        epochs=2,
        validation_data=pictures[:20],
    )
    assert names_in(tmp_path / "grid") == ["epoch-0001.png", "epoch-0002.png"]
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(log["val_loss"], logs["val_loss"])
    # The checkpoint of an epoch is the model that its picture shows.
    saved = keras.saving.load_model(tmp_path / "0001.keras")
    tiles = tiles_of(tmp_path / "grid" / "epoch-0001.png", 3, 3)
    expected = 255 * saved.predict(pictures[:3], verbose=0)
    np.testing.assert_allclose(tiles[1], expected, atol=0.51)


@pytest.mark.parametrize("update_freq", [None, 1000])
def test_tensorboard_has_the_same_pictures(pictures, tmp_path, update_freq):
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator,
    )

    callbacks = [
        vae_keras.SampleGrid(
            pictures[:3], tmp_path / "grid", 2, tmp_path / "logs"
        )
    ]
    if update_freq is not None:
        board = keras.callbacks.TensorBoard(
            tmp_path / "others", update_freq=update_freq
        )
        callbacks.insert(0, board)
    fit(compiled(), pictures, *callbacks, epochs=4)
    (events,) = (tmp_path / "logs").iterdir()
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    received = accumulator.Tensors("sample_grid")
    assert [event.step for event in received] == [1, 3]
    for event in received:
        width, height, png = event.tensor_proto.string_val
        path = tmp_path / "grid" / f"epoch-{event.step + 1:04}.png"
        expected = decoded(path)
        assert (int(height), int(width)) == expected.shape[:2]
        assert np.array_equal(tf.io.decode_png(png), expected)


@pytest.mark.parametrize("step", ["write", "move"])
def test_a_picture_is_whole_or_not_there(pictures, tmp_path, monkeypatch, step):
    grid = vae_keras.SampleGrid(pictures[:2], tmp_path)
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


# === Refusals ===


@pytest.mark.parametrize("every", [0, -1, 2.5, "3", True, None, [3]])
def test_a_wrong_number_is_refused(pictures, tmp_path, every):
    with pytest.raises(ValueError, match=r"Expected `every`.*Received: every="):
        vae_keras.SampleGrid(pictures, tmp_path, every)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 255 * x, "Expected images.*divide by 255"),
        (lambda x: x[:, ::2], "Expected images.*Received: shape.*Resize"),
        (lambda x: x[:0], "Expected images.*empty"),
        (lambda x: list(x), "Expected images.*Received: list"),
    ],
)
def test_images_are_refused_before_the_first_step(
    pictures, tmp_path, change, message
):
    vae = compiled()
    grid = vae_keras.SampleGrid(change(pictures), tmp_path / "grid")
    with pytest.raises(ValueError, match=message):
        fit(vae, pictures, grid)
    assert int(vae.optimizer.iterations) == 0
    assert names_in(tmp_path) == []


def test_two_channels_are_no_picture(images, tmp_path):
    shape = (8, 6, 2)
    x = np.stack([images[k : k + 20, 10:18, 11:17, 0] for k in range(2)], -1)
    vae = vae_keras.VAE(NETWORKS["encoder"](shape), NETWORKS["decoder"](shape))
    vae.compile("adam", **GRAPH)
    with pytest.raises(ValueError, match="1 or 3"):
        fit(vae, x, vae_keras.SampleGrid(x[:2], tmp_path))
    assert int(vae.optimizer.iterations) == 0


def test_a_file_is_no_folder(pictures, tmp_path):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")
    vae = compiled()
    with pytest.raises(ValueError, match=r"Expected `folder`.*grid\.png"):
        fit(vae, pictures, vae_keras.SampleGrid(pictures[:2], path))
    assert int(vae.optimizer.iterations) == 0
    assert path.read_bytes() == b"old"


def test_other_models_are_refused(pictures, tmp_path):
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    grid = vae_keras.SampleGrid(pictures[:2], tmp_path)
    with pytest.raises(ValueError, match=r"`vae_keras`.*Received: Sequential"):
        model.fit(pictures, pictures, verbose=0, callbacks=[grid])
    assert int(model.optimizer.iterations) == 0
