"""Saving, loading and resuming: nothing is lost, nothing is left behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import vae_keras

ROOT = pathlib.Path(vae_keras.__file__).parents[1]
PLAIN = {"jit_compile": False}
FUSED = {"jit_compile": True, "steps_per_execution": 5}
RUNS = {
    "plain": (PLAIN, "bernoulli"),
    "fused": (FUSED, "bernoulli"),
    "gaussian": (PLAIN, "gaussian"),
}


def new_vae(**kwargs):
    """A VAE with all kinds of random states, dropout included."""
    x = keras.Input((28, 28, 1))
    h = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(x))
    h = keras.layers.Dropout(0.3)(h)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    encoder = keras.Model(x, outputs)
    decoder = vae_keras.mlp_decoder(2, (28, 28, 1), (16,))
    return vae_keras.VAE(encoder, decoder, **kwargs)


def binarized(images, initial_epoch=0):
    """Ten batches an epoch, in another order and with other pixels in each."""
    return vae_keras.image_dataset(
        images[:200],
        20,
        binarize="dynamic",
        seed=3,
        initial_epoch=initial_epoch,
    )


def trained(
    images, epochs, compile_kwargs, likelihood="bernoulli", **fit_kwargs
):
    keras.utils.set_random_seed(0)
    vae = new_vae(likelihood=likelihood)
    vae.compile("adam", **compile_kwargs)
    vae.fit(binarized(images), epochs=epochs, verbose=0, **fit_kwargs)
    return vae


def weights_of(vae):
    return {str(i): weight for i, weight in enumerate(vae.get_weights())}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def assert_same_state(one, other):
    """All variables: weights, optimizer slots and random states."""
    variables = one.variables + one.optimizer.variables
    others = other.variables + other.optimizer.variables
    for a, b in zip(variables, others, strict=True):
        if not a.path.startswith(("loss", "kl_loss", "reconstruction")):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), a.path)


# === A fresh process ===

CHILD = """
import os
import signal
import sys

import vae_keras
import keras
import numpy as np

images = np.load("images.npy")


def binarized(initial_epoch=0):
    return vae_keras.image_dataset(
        images[:200],
        20,
        binarize="dynamic",
        seed=3,
        initial_epoch=initial_epoch,
    )


for name in ("plain", "fused", "gaussian"):
    vae = keras.saving.load_model(f"{name}.keras")
    predicted = vae.predict(images, verbose=0)
    vae.fit(binarized(2), initial_epoch=2, epochs=4, verbose=0)
    weights = {str(i): w for i, w in enumerate(vae.get_weights())}
    np.savez(f"{name}.npz", predicted=predicted, **weights)


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 25:
            os.kill(os.getpid(), signal.SIGKILL)


vae = keras.saving.load_model("start.keras")
vae.fit(
    binarized(),
    epochs=4,
    verbose=0,
    callbacks=[keras.callbacks.BackupAndRestore("backup"), Kill()],
)
"""


class Halfway(keras.callbacks.Callback):
    def __init__(self, path, images):
        super().__init__()
        self.path, self.images = path, images

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.model.save(self.path)
            self.predicted = self.model.predict(self.images, verbose=0)


@pytest.fixture(scope="module")
def run(mnist_test, tmp_path_factory):
    """Trains, saves, and has another process predict, resume and be killed."""
    folder = tmp_path_factory.mktemp("run")
    images = mnist_test[0][:200]
    np.save(folder / "images.npy", images)
    trained(images, 0, PLAIN).save(folder / "start.keras")
    expected = {}
    for name, (compile_kwargs, likelihood) in RUNS.items():
        # Four epochs in one go, with a look at the model after two.
        halfway = Halfway(folder / f"{name}.keras", images)
        vae = trained(
            images, 4, compile_kwargs, likelihood, callbacks=[halfway]
        )
        expected[name] = {"predicted": halfway.predicted, **weights_of(vae)}
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    return folder, expected


@pytest.mark.parametrize("name", RUNS)
def test_a_fresh_process_predicts_and_resumes_alike(run, name):
    folder, expected = run
    with np.load(folder / f"{name}.npz") as found:
        assert_equal(dict(found), expected[name])


def test_a_killed_run_resumes_exactly(run):
    folder, expected = run
    images = np.load(folder / "images.npy")
    metadata = json.loads(
        (folder / "backup" / "training_metadata.json").read_text()
    )
    assert metadata["epoch"] == 2
    # Any weights will do: the callback restores those of the backup.
    vae = new_vae()
    vae.compile("adam", **PLAIN)
    vae.fit(
        binarized(images, initial_epoch=metadata["epoch"]),
        epochs=4,
        verbose=0,
        callbacks=[keras.callbacks.BackupAndRestore(folder / "backup")],
    )
    assert int(vae.optimizer.iterations) == 40
    whole = {k: v for k, v in expected["plain"].items() if k != "predicted"}
    assert_equal(weights_of(vae), whole)


@pytest.mark.parametrize("double", [False, True])
def test_a_backup_is_never_half_written(images, tmp_path, monkeypatch, double):
    """A kill between emptying Keras's file of the epoch and filling it."""

    def fit(**kwargs):
        vae = trained(images, 0, PLAIN)
        backup = keras.callbacks.BackupAndRestore(
            tmp_path / "backup", double_checkpoint=double
        )
        vae.fit(images, verbose=0, callbacks=[backup], **kwargs)
        return vae

    def dumps(metadata):
        if metadata["epoch"] == 3:
            raise KeyboardInterrupt
        return json_dumps(metadata)

    json_dumps = json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", dumps)
        with pytest.raises(KeyboardInterrupt):
            fit(epochs=4)
    names = {path.name for path in (tmp_path / "backup").iterdir()}
    assert names == {"latest.weights.h5", "training_metadata.json"} | (
        {"latest.weights.h5.bkp", "training_metadata.json.bkp"}
        if double
        else set()
    )
    for name in names:
        if "json" in name:
            text = (tmp_path / "backup" / name).read_text()
            assert json.loads(text)["epoch"] == 2
    # Its weights were in place: one epoch is trained twice, none is lost.
    steps = -(-len(images) // 32)
    assert int(fit(epochs=4).optimizer.iterations) == (3 + 2) * steps


# === In one process ===


def test_round_trip(images, tmp_path):
    vae = trained(images, 1, PLAIN)
    vae.beta.assign(3.0)
    vae.save(tmp_path / "vae.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.keras"]
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert_same_state(vae, loaded)
    assert float(loaded.beta) == 3.0
    assert loaded.target_beta == 1.0
    assert not loaded.jit_compile
    for each in (vae, loaded):
        each.fit(binarized(images, 1), verbose=0)
    assert_same_state(vae, loaded)
    assert loaded.evaluate(images, verbose=0) == vae.evaluate(images, verbose=0)


def test_config_round_trip():
    vae = new_vae(beta=2.5, seed=4, name="digits")
    clone = vae_keras.VAE.from_config(vae.get_config())
    assert clone.get_config() == vae.get_config()
    assert clone.name == "digits"
    assert clone.seed == 4
    assert float(clone.beta) == clone.target_beta == 2.5


def test_weights_alone_hold_noise_and_beta(images, tmp_path):
    vae = trained(images, 1, PLAIN)
    vae.beta.assign(0.5)
    vae.save_weights(tmp_path / "vae.weights.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.weights.h5"]
    keras.utils.set_random_seed(99)
    other = new_vae(seed=7)
    other.compile("adam", **PLAIN)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "vae.weights.h5")
    assert_same_state(vae, other)
    assert float(other.beta) == 0.5


@pytest.mark.parametrize("name", ["vae.keras", "vae.weights.h5"])
def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch, name):
    vae = new_vae()
    save = vae.save if name == "vae.keras" else vae.save_weights
    save(tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.layers.Dense, "save_own_variables", fail)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", ["vae.keras", "vae.weights.h5"])
def test_a_missing_folder(tmp_path, name):
    vae = new_vae()
    save = vae.save if name == "vae.keras" else vae.save_weights
    with pytest.raises(OSError, match="missing") as error:
        save(tmp_path / "missing" / name)
    # The message names the file that was asked for, and no other.
    assert f".{name}" not in str(error.value).replace(f"-{name}", f".{name}")


def test_a_wrong_ending_is_named_as_given(tmp_path):
    with pytest.raises(ValueError, match=r"filepath=\S*/vae\.model"):
        new_vae().save(tmp_path / "vae.model")


@pytest.mark.parametrize("answer", ["y", "n"])
def test_overwrite_asks_as_keras_does(tmp_path, monkeypatch, answer):
    path = tmp_path / "vae.keras"
    path.write_bytes(b"old")
    monkeypatch.setattr("builtins.input", lambda *args: answer)
    new_vae().save(path, overwrite=False)
    assert (path.read_bytes() == b"old") == (answer == "n")


def test_folders_and_shards(tmp_path):
    vae = new_vae()
    # Keras itself writes these, and cannot replace a folder.
    vae.save(tmp_path / "folder", zipped=False)
    for _ in range(2):
        vae.save_weights(tmp_path / "w.weights.json", max_shard_size=1e-4)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    other = new_vae()
    other.load_weights(tmp_path / "w.weights.json")
    assert_equal(weights_of(vae), weights_of(other))


def test_callbacks_together(images, tmp_path):
    vae = new_vae()
    vae.compile(keras.optimizers.Adam(1e-2), **PLAIN)
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=1, restore_best_weights=True
        ),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_loss", save_best_only=True
        ),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
        # The fourth epoch spoils the weights, and the fit stops there.
        keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: 1.0 if epoch == 3 else rate
        ),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1),
    ]
    history = vae.fit(
        images,
        epochs=9,
        validation_data=images,
        callbacks=callbacks,
        verbose=0,
    ).history
    assert len(history["loss"]) == 4
    assert history["learning_rate"][3] == 1.0
    assert float(vae.optimizer.learning_rate) == pytest.approx(0.1)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert_equal(weights_of(best), weights_of(vae))
    expected = [min(history["val_loss"])]
    assert vae.evaluate(images, verbose=0)[:1] == expected
    log = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)
    np.testing.assert_allclose(log["val_loss"], history["val_loss"])
    assert list((tmp_path / "logs").rglob("events*"))
    assert not list(tmp_path.glob(".*"))


@keras.saving.register_keras_serializable(package="tests")
class Scaled(vae_keras.VAE):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.log_scale = self.add_weight(name="log_scale")


def test_a_subclass_keeps_weights_of_its_own(tmp_path):
    vae = Scaled(
        vae_keras.mlp_encoder((28, 28, 1), 2, (8,)),
        vae_keras.mlp_decoder(2, (28, 28, 1), (8,)),
    )
    vae.log_scale.assign(3.0)
    vae.beta.assign(0.5)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert float(loaded.log_scale) == 3.0
    assert float(loaded.beta) == 0.5


# === Files from strangers ===


def payload():
    """What somebody else's model would like to run here."""
    return lambda x: (__import__("os").mkdir("payload_has_run"), x)[1]


def as_lambda():
    """The payload as Keras writes a `lambda`, code and all."""
    with pytest.warns(UserWarning, match="lambda"):
        return keras.saving.serialize_keras_object(payload())


def with_layer(config):
    """Puts it in a Lambda layer, in place of the encoder's dropout."""
    layers = config["config"]["encoder"]["config"]["layers"]
    (layer,) = (x for x in layers if x["class_name"] == "Dropout")
    code = keras.saving.serialize_keras_object(keras.layers.Lambda(payload()))
    code["config"]["name"] = layer["config"]["name"]
    layer.update({key: code[key] for key in ("class_name", "config", "module")})


def with_activation(config):
    """Makes it the activation of a layer of the decoder."""
    layers = config["config"]["decoder"]["config"]["layers"]
    layer = next(x for x in layers if x["class_name"] == "Dense")
    layer["config"]["activation"] = as_lambda()


def with_optimizer(config):
    """Makes it the optimizer that the model is compiled with."""
    config["compile_config"]["optimizer"] = as_lambda()


@pytest.mark.parametrize(
    "tamper", [with_layer, with_activation, with_optimizer]
)
def test_a_file_cannot_bring_code(images, tmp_path, monkeypatch, tamper):
    trained(images, 1, PLAIN).save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for name in good.namelist():
            contents = good.read(name)
            if name == "config.json":
                config = json.loads(contents)
                tamper(config)
                contents = json.dumps(config)
            bad.writestr(name, contents)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match="safe_mode=False"):
        keras.saving.load_model("bad.keras")
    assert not os.path.exists("payload_has_run")
    if tamper is with_layer:  # Its code is real: here it is let in.
        keras.saving.load_model("bad.keras", safe_mode=False)
        assert os.path.exists("payload_has_run")
