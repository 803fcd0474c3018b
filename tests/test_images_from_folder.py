"""A folder of pictures, whatever their sizes and formats, becomes images."""

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import vae_keras

SIZE = (32, 48)


@pytest.fixture(scope="module")
def photo():
    """A photograph, bytes `(427, 640, 3)`."""
    return load_sample_images().images[0]


def grey_of(picture):
    """Luminance as the JPEG standard has it, which decoders take for grey."""
    return picture @ [0.299, 0.587, 0.114]


def shrunk(picture, n):
    """The means of n × n pixels."""
    height, width = np.array(picture.shape[:2]) // n
    return picture.reshape(height, n, width, n, -1).mean(axis=(1, 3))


@pytest.fixture(scope="module")
def pictures(photo, tmp_path_factory):
    """A folder, and for each file in it what its image should be, in bytes.

    PNG keeps every pixel; JPEG keeps them nearly.
    """
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    small, large = photo[150:182, 200:248], photo[100:164, 300:396]
    grey = np.rint(grey_of(small)).astype("uint8")
    opaque = np.full((*SIZE, 1), 255, "uint8")
    large_grey = np.rint(grey_of(large)).astype("uint8")
    files = {
        "equal.png": (small, small),
        "larger.png": (photo[:128, :192], shrunk(photo[:128, :192], 4)),
        "wide.png": (photo[100:132, :200], photo[100:132, 76:124]),
        "tall.png": (photo[:232, 50:98], photo[100:132, 50:98]),
        "grey.png": (grey, grey[..., np.newaxis]),
        "alpha.png": (np.concatenate([small, opaque], axis=2), small),
        "deep.png": (257 * grey.astype("uint16"), grey[..., np.newaxis]),
        "photo.jpg": (large, shrunk(large, 2)),
        "more/GREY.JPEG": (large_grey, shrunk(large_grey, 2)),
    }
    expected = {}
    for name, (pixels, image) in files.items():
        Image.fromarray(pixels).save(folder / name, quality=95)
        expected[name] = np.broadcast_to(image, (*SIZE, 3))
    (folder / "notes.txt").write_text("no picture")
    return folder, expected


def in_order(expected):
    """Folder by folder, sorted in each."""
    return sorted(expected, key=lambda name: (name.count("/"), name))


# === Pictures of all kinds ===


@pytest.mark.parametrize("color_mode", ["rgb", "grayscale"])
def test_pictures_of_all_kinds(pictures, color_mode):
    folder, expected = pictures
    images = vae_keras.images_from_folder(folder, SIZE, color_mode)
    channels = 3 if color_mode == "rgb" else 1
    assert images.shape == (len(expected), *SIZE, channels)
    assert images.dtype == "float32"
    vae_keras.check_images(images)
    for image, name in zip(images, in_order(expected), strict=True):
        picture = expected[name]
        if color_mode == "grayscale":
            picture = grey_of(picture)[..., np.newaxis]
        difference = np.abs(255 * image - picture)
        is_exact = name.endswith(".png")
        # Rounding to whole levels of grey, before the means are taken.
        tolerance = 1e-4 if color_mode == "rgb" else 1.1
        assert difference.max() < (tolerance if is_exact else 20), name
        assert difference.mean() < (tolerance if is_exact else 2), name


def test_bytes_stay_bytes(pictures):
    folder, expected = pictures
    images = vae_keras.images_from_folder(str(folder), SIZE)
    index = in_order(expected).index("equal.png")
    pixels = expected["equal.png"].astype("float32")
    assert np.array_equal(images[index], pixels / np.float32(255))


def test_reading_moves_no_random_numbers(pictures, capsys):
    draws = []
    for read in (True, False):
        keras.utils.set_random_seed(0)
        if read:
            images = vae_keras.images_from_folder(pictures[0], 8)
            assert images.shape[1:] == (8, 8, 3), "one number is a square"
        draws.append(np.random.random())  # noqa: NPY002
    assert draws[0] == draws[1]
    assert capsys.readouterr().out == ""


# === Broken pictures ===


def broken_files(photo, tmp_path):
    for suffix in ("png", "jpg"):
        Image.fromarray(photo[:200, :200]).save(tmp_path / f"whole.{suffix}")
    png = (tmp_path / "whole.png").read_bytes()
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    return {
        "text.png": b"<!DOCTYPE html>",
        "empty.jpg": b"",
        "cut.png": png[: len(png) // 2],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "head.jpeg": jpeg[:10] + bytes(1000),
        "size.png": png[:16] + b"\x7f\xff\xff\xff" * 2 + png[24:],
    }


@pytest.mark.parametrize(
    "name",
    ["text.png", "empty.jpg", "cut.png", "cut.jpg", "head.jpeg", "size.png"],
)
def test_a_broken_picture_is_named(photo, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    # It stands between good ones.
    for other in ("a.png", "b.jpg", "y.png", "z.jpg"):
        Image.fromarray(photo[:40, :50]).save(folder / other)
    (folder / name).write_bytes(broken_files(photo, tmp_path)[name])
    with pytest.raises(ValueError, match=r"Expected pictures.*Mend") as error:
        vae_keras.images_from_folder(folder, SIZE)
    assert f"Received: {folder / name}," in str(error.value)
    (folder / name).unlink()
    assert len(vae_keras.images_from_folder(folder, SIZE)) == 4


@pytest.mark.parametrize("content", ["missing", "empty", "text"])
def test_a_folder_without_pictures(tmp_path, content):
    folder = tmp_path / "folder"
    if content != "missing":
        folder.mkdir()
    if content == "text":
        (folder / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="No images found") as error:
        vae_keras.images_from_folder(folder, SIZE)
    assert str(folder) in str(error.value)
    assert ".png" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (32, 32, 3)}, r"image_size=\(32, 32, 3\)"),
        ({"image_size": SIZE, "color_mode": "gray"}, "color_mode=gray"),
    ],
)
def test_bad_arguments(pictures, arguments, message):
    with pytest.raises(ValueError, match=message):
        vae_keras.images_from_folder(pictures[0], **arguments)


# === Training on them ===


def test_a_vae_trains_on_a_dataset_of_keras(pictures):
    dataset = keras.utils.image_dataset_from_directory(
        pictures[0], labels=None, image_size=SIZE, batch_size=4, verbose=False
    )
    kwargs = {"image_shape": (*SIZE, 3), "latent_dim": 2, "filters": 4}
    vae = vae_keras.VAE(
        vae_keras.conv_encoder(hidden_units=(8,), **kwargs),
        vae_keras.conv_decoder(hidden_units=(8,), **kwargs),
    )
    vae.compile("sgd")
    # What Keras gives are bytes as floats: this is said before a step.
    with pytest.raises(ValueError, match="divide by 255") as error:
        vae.fit(dataset, verbose=0)
    assert "`dataset.map(lambda x: x / 255)`" in str(error.value)
    assert int(vae.optimizer.iterations) == 0
    scaled = dataset.map(lambda x: x / 255)
    history = vae.fit(scaled, validation_data=scaled, verbose=0).history
    assert np.isfinite(history["val_loss"]).all()
    assert int(vae.optimizer.iterations) == 3


def test_the_mean_of_white_is_not_whiter(tmp_path):
    """Areas of odd sizes, whose mean TensorFlow rounds up."""
    for size in range(33, 64):
        white = np.full((size, size, 3), 255)
        keras.utils.save_img(tmp_path / f"{size}.png", white, scale=False)
    images = vae_keras.images_from_folder(tmp_path, (32, 32))
    assert images.max() == 1
    assert images.min() > 1 - 1e-6
