"""Files: replaced whole, exact after a kill, and read with care.

That they hold all of every model is in `test_contract.py`.
"""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import vae_keras
from tests.helpers import PACKAGE_ROOT, assert_close

SHAPE = (8, 8, 1)


def new_vae(dropout=1, **kwargs):
    """A VAE with so many random layers in its encoder."""
    x = keras.Input(SHAPE)
    h = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(x))
    for _ in range(dropout):
        h = keras.layers.Dropout(0.3)(h)
    outputs = [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)]
    decoder = vae_keras.mlp_decoder(2, SHAPE, (8,))
    return vae_keras.VAE(keras.Model(x, outputs), decoder, **kwargs)


@pytest.fixture
def pictures(images):
    """Middles of digits."""
    return images[:100, 10:18, 10:18]


def data_of(pictures, initial_epoch=0):
    """Five batches an epoch, in another order and with other pixels in each."""
    return vae_keras.image_dataset(
        pictures,
        20,
        binarize="dynamic",
        seed=3,
        initial_epoch=initial_epoch,
    )


def trained(pictures, epochs):
    keras.utils.set_random_seed(0)
    vae = new_vae()
    vae.compile("adam")
    vae.fit(data_of(pictures), epochs=epochs, verbose=0)
    return vae


# === Stopped trainings ===

CHILD = """
import os
import pathlib
import signal

import keras
import numpy as np

import vae_keras


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 12:
            os.kill(os.getpid(), signal.SIGKILL)


path = pathlib.Path("vae.keras")
vae = keras.saving.load_model(path)
data = vae_keras.image_dataset(
    np.load("pictures.npy"), 20, binarize="dynamic", seed=3
)
saved = keras.callbacks.ModelCheckpoint(path)
vae.fit(data, epochs=4, verbose=0, callbacks=[saved, Kill()])
"""


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(pictures, tmp_path):
    """With one file, which holds the model and all of its training."""
    path = tmp_path / "vae.keras"
    np.save(tmp_path / "pictures.npy", pictures)
    trained(pictures, 0).save(path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    vae = keras.saving.load_model(path)
    done = int(vae.optimizer.iterations) // 5
    assert done == 2
    data = data_of(pictures, initial_epoch=done)
    vae.fit(data, initial_epoch=done, epochs=4, verbose=0)
    assert_close(vae.get_weights(), trained(pictures, 4).get_weights(), rtol=0)


@pytest.mark.slow
def test_a_backup_resumes_exactly(pictures, tmp_path):
    """Keras's own callback, of a training that is interrupted."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    before = dict(vars(backup))
    vae = trained(pictures, 0)
    with pytest.raises(KeyboardInterrupt):
        vae.fit(
            data_of(pictures), epochs=4, verbose=0, callbacks=[backup, Stop()]
        )
    assert vars(backup).keys() - before.keys() <= {"_model", "_params"}
    # Any weights will do: the callback restores those of the backup.
    other = new_vae(seed=9)
    other.compile("adam")
    other.fit(
        data_of(pictures, initial_epoch=2),
        epochs=4,
        verbose=0,
        callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")],
    )
    assert int(other.optimizer.iterations) == 20
    assert_close(
        other.get_weights(), trained(pictures, 4).get_weights(), rtol=0
    )


# === Files that are replaced ===


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


def test_a_wrong_ending_is_named_as_given(tmp_path):
    with pytest.raises(ValueError, match=r"filepath=\S*/vae\.model"):
        new_vae().save(tmp_path / "vae.model")
    with pytest.raises(ValueError, match=r"filepath=\S*/w\.h5"):
        new_vae().save_weights(tmp_path / "w.h5")
    for save in (new_vae().save, new_vae().save_weights):
        with pytest.raises(ValueError, match=r"filepath=<_io\.BytesIO"):
            save(io.BytesIO())


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
    assert_close(vae.get_weights(), other.get_weights(), rtol=0)


@pytest.mark.slow
def test_the_best_model_is_kept(pictures, tmp_path):
    vae = new_vae()
    vae.compile(keras.optimizers.Adam(1e-2))
    callbacks = [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=1, restore_best_weights=True
        ),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "val_loss", save_best_only=True
        ),
        keras.callbacks.TerminateOnNaN(),
        # The fourth epoch spoils the weights, and the fit stops there.
        keras.callbacks.LearningRateScheduler(
            lambda epoch, rate: 1.0 if epoch == 3 else rate
        ),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1),
    ]
    history = vae.fit(
        pictures,
        epochs=9,
        validation_data=pictures,
        callbacks=callbacks,
        verbose=0,
    ).history
    assert len(history["loss"]) == 4
    assert history["learning_rate"][3] == 1.0
    assert float(vae.optimizer.learning_rate) == pytest.approx(0.1)
    best = keras.saving.load_model(tmp_path / "best.keras")
    assert_close(best.get_weights(), vae.get_weights(), rtol=0)
    expected = [min(history["val_loss"])]
    assert vae.evaluate(pictures, verbose=0)[:1] == expected
    assert not list(tmp_path.glob(".*"))


def networks():
    return (
        vae_keras.mlp_encoder(SHAPE, 2, (8,)),
        vae_keras.mlp_decoder(2, SHAPE, (8,)),
    )


@keras.saving.register_keras_serializable(package="tests")
class Scaled(vae_keras.VAE):
    def __init__(self, *args, shape=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.log_scale = self.add_weight(shape, name="log_scale")


def test_a_subclass_keeps_weights_of_its_own(tmp_path):
    vae = Scaled(*networks())
    vae.log_scale.assign(3.0)
    vae.beta.assign(0.5)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert float(loaded.log_scale) == 3.0
    assert float(loaded.beta) == 0.5


# === Networks that have changed ===


@pytest.mark.parametrize("name", ["vae.weights.h5", "vae.keras"])
@pytest.mark.parametrize(("saved", "dropout"), [(1, 0), (1, 2), (0, 1)])
def test_random_layers_more_or_fewer(tmp_path, name, saved, dropout):
    """States that a file does not have stay as they are, as in Keras."""
    vae = new_vae(saved, seed=1)
    vae.beta.assign(0.25)
    vae.sampling.seed_generator.next()
    (vae.save_weights if "weights" in name else vae.save)(tmp_path / name)
    other = new_vae(dropout, seed=2)
    seeds = [v for v in other.encoder.variables if "seed" in v.path]
    before = [v.numpy() for v in seeds]
    assert len(before) == dropout
    other.load_weights(tmp_path / name)
    assert_close(other.get_weights(), vae.get_weights(), rtol=0)
    assert float(other.beta) == 0.25
    states = [m.sampling.seed_generator.state.numpy() for m in (vae, other)]
    np.testing.assert_array_equal(*states)
    assert_close([v.numpy() for v in seeds[saved:]], before[saved:], rtol=0)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_keras_wrote(tmp_path, monkeypatch):
    """They load, or what does not fit is explained: no raw `KeyError`."""
    vae, path = new_vae(), tmp_path / "vae.weights.h5"
    with monkeypatch.context() as patch:
        by_keras = keras.Model.save_own_variables
        patch.setattr(vae_keras.VAE, "save_own_variables", by_keras)
        vae.save_weights(path)
    message = r"Expected weights of a VAE.*beta \(\)\. Received: none\. Load"
    with pytest.raises(ValueError, match=message):
        new_vae().load_weights(path)
    # A plain model of the same networks has no beta to give.
    x = keras.Input(SHAPE)
    keras.Model(x, vae.decoder(vae.encoder(x)[0])).save_weights(path)
    other = new_vae(beta=3.0)
    other.load_weights(path)
    assert_close(other.trainable_weights, vae.trainable_weights, rtol=0)
    assert float(other.beta) == 3.0


def test_weights_of_another_shape(tmp_path):
    path = tmp_path / "vae.weights.h5"
    Scaled(*networks(), shape=(3,)).save_weights(path)
    message = (
        r"Expected weights of a Scaled.*log_scale.*\(2,\).*Received: "
        r"shape \(3,\)\. Load them into"
    )
    with pytest.raises(ValueError, match=message):
        Scaled(*networks(), shape=(2,)).load_weights(path)


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
@pytest.mark.slow
def test_a_file_cannot_bring_code(pictures, tmp_path, monkeypatch, tamper):
    trained(pictures, 1).save(tmp_path / "good.keras")
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
