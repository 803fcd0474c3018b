"""A folder of pictures, whatever their sizes and formats, becomes images."""

import glob
import inspect
import math
import os
import random
import textwrap

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


def with_alpha(pixels, alpha):
    return np.dstack([pixels, alpha]).astype("uint8")


def saved(path, pixels, orientation=1, **kwargs):
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    exif = picture.getexif()
    picture.save(path, exif=exif, quality=95, lossless=True, **kwargs)


# How a file keeps what a viewer shows, by the EXIF tag of orientation: from 1
# to 8, "row 0 is the visual top, column 0 the visual left-hand side", …
KEPT_AS = [
    lambda x: x,
    lambda x: x[:, ::-1],
    lambda x: x[::-1, ::-1],
    lambda x: x[::-1],
    lambda x: x.swapaxes(0, 1),
    lambda x: np.rot90(x, 1),
    lambda x: x[::-1, ::-1].swapaxes(0, 1),
    lambda x: np.rot90(x, -1),
]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_side_that_was_up_is_up(photo, tmp_path, orientation, suffix):
    shown = photo[100:164, 300:396]
    kept = np.ascontiguousarray(KEPT_AS[orientation - 1](shown))
    saved(tmp_path / f"photo.{suffix}", kept, orientation)
    (image,) = vae_keras.images_from_folder(tmp_path, SIZE)
    difference = np.abs(255 * image - shrunk(shown, 2))
    assert difference.max() < (1e-4 if suffix == "png" else 20)


def viewed(photo):
    """Files, and what a viewer shows of them, from 0 to 255."""
    small = photo[150:182, 200:248]
    grey = small[..., 1]
    alpha = np.tile(np.arange(48, dtype="uint8") * 5, (32, 1))
    opacity = alpha[..., np.newaxis] / 255
    over_white = opacity * small + (1 - opacity) * 255.0
    few = small // 64 * 64  # 64 colours at most, as palettes have
    key = tuple(few[0, 0].tolist())
    is_key = np.all(few == key, axis=-1, keepdims=True)
    deep = np.random.default_rng(0).integers(0, 2**16, SIZE, "uint16")
    is_deep_key = (deep == deep[0, 0])[..., np.newaxis]
    palette = Image.fromarray(few).quantize(64)
    rgba = Image.fromarray(with_alpha(few, 255 * (1 - is_key)))
    return {
        "alpha.png": (with_alpha(small, alpha), over_white),
        "alpha.webp": (with_alpha(small, alpha), over_white),
        "grey alpha.png": (
            Image.fromarray(with_alpha(grey[..., np.newaxis], alpha)),
            opacity * grey[..., np.newaxis] + (1 - opacity) * 255,
        ),
        "palette.png": (palette, few),
        "palette.gif": (palette, few),
        "clear palette.png": (rgba.quantize(64), np.where(is_key, 255, few)),
        "clear palette.gif": (
            palette,
            np.where(is_key, 255, few),
            {"transparency": palette.getpixel((0, 0))},
        ),
        "key.png": (few, np.where(is_key, 255, few), {"transparency": key}),
        "deep.png": (deep, deep[..., np.newaxis] / 257),
        "deep key.png": (
            deep,
            np.where(is_deep_key, 255, deep[..., np.newaxis] / 257),
            {"transparency": int(deep[0, 0])},
        ),
        "bits.png": (grey > 127, 255 * (grey > 127)[..., np.newaxis]),
        "inks.jpg": (
            Image.fromarray(photo[100:164, 300:396]).convert("CMYK"),
            shrunk(photo[100:164, 300:396], 2),
        ),
        "moving.gif": (
            palette,
            few,
            {"save_all": True, "append_images": [Image.fromarray(255 - few)]},
        ),
        "Фото.BMP": (small, small),
        "图 片.PNG": (small, small),
    }


KINDS = list(viewed(np.zeros((427, 640, 3), "uint8")))


@pytest.mark.parametrize("color_mode", ["rgb", "grayscale"])
@pytest.mark.parametrize("name", KINDS)
def test_what_a_viewer_shows(photo, tmp_path, name, color_mode):
    picture, expected, *kwargs = viewed(photo)[name]
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    picture.save(
        tmp_path / name, quality=95, lossless=True, **(kwargs or [{}])[0]
    )
    (image,) = vae_keras.images_from_folder(tmp_path, SIZE, color_mode)
    expected = np.broadcast_to(expected, (*SIZE, 3))
    if color_mode == "grayscale":
        expected = grey_of(expected)[..., np.newaxis]
    difference = np.abs(255 * image - expected).max()
    assert difference < (20 if name.endswith("jpg") else 1e-3)


# === Which files ===


def test_links_are_followed_and_what_is_hidden_is_not(photo, tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in ("folder/b", "folder/.ipynb_checkpoints", "elsewhere/in"):
        (tmp_path / place).mkdir(parents=True)
    found = ["folder/Z.PNG", "folder/b/1.jpeg", "elsewhere/in/2.Gif"]
    hidden = ["folder/.x.png", "folder/.ipynb_checkpoints/x.png"]
    for value, name in enumerate([*found, "elsewhere/3.bmp", *hidden]):
        Image.new("L", (4, 4), value).save(tmp_path / name)
    (folder / "a.bmp").symlink_to(elsewhere / "3.bmp")
    (folder / "c").symlink_to(elsewhere / "in", target_is_directory=True)
    (folder / "b" / "back").symlink_to(folder, target_is_directory=True)
    images = vae_keras.images_from_folder(folder, 4)
    # Folder by folder, sorted in each: Z, a, b/1, c/2.
    assert np.rint(255 * images[:, 0, 0, 0]).tolist() == [0, 3, 1, 2]


def test_a_list_of_files_keeps_its_order(photo, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        Image.new("L", (4, 4), i).save(path)
    images = vae_keras.images_from_folder(paths[::-1], 4)
    assert np.rint(255 * images[:, 0, 0, 0]).tolist() == [4, 3, 2, 1, 0]
    images = vae_keras.images_from_folder([str(paths[2])], 4, "grayscale")
    assert images.shape == (1, 4, 4, 1)


def test_channels_are_last_whatever_keras_does_elsewhere(pictures):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        images = vae_keras.images_from_folder(pictures[0], 8)
    finally:
        keras.config.set_image_data_format(before)
    assert images.shape[1:] == (8, 8, 3)


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


@pytest.mark.parametrize("limit", [1500, 1000])
def test_a_decompression_bomb_is_named(tmp_path, monkeypatch, limit):
    """Pillow warns of more pixels than the limit, and refuses twice that."""
    path = tmp_path / "bomb.png"
    Image.new("L", (50, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=f"at most {limit:,} pixels") as error:
        vae_keras.images_from_folder(tmp_path, SIZE)
    assert f"Received: {path}, which claims more. Scale" in str(error.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2500)  # the remedy
    assert len(vae_keras.images_from_folder(tmp_path, SIZE)) == 1


def test_a_link_to_nowhere_is_named(tmp_path):
    path = tmp_path / "link.png"
    path.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=f"Received: {path}, which cannot"):
        vae_keras.images_from_folder(tmp_path, SIZE)


@pytest.mark.parametrize("content", ["missing", "empty", "text"])
def test_a_folder_without_pictures(tmp_path, content):
    folder = tmp_path / "folder"
    if content != "missing":
        folder.mkdir()
    if content == "text":
        (folder / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="Check the path") as error:
        vae_keras.images_from_folder(folder, SIZE)
    assert f"Received: {folder}, which holds none" in str(error.value)
    assert ".png" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (32, 32, 3)}, r"image_size=\(32, 32, 3\)"),
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": SIZE, "color_mode": "gray"}, "color_mode='gray'"),
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


def test_the_recipe_for_many_pictures(photo, tmp_path):
    """The docstring's own lines, run."""
    (tmp_path / "more").mkdir()
    for i in range(70):
        kept = photo[i : i + 80, i : i + 120]
        saved(tmp_path / ("more" * (i % 2)) / f"{i}.jpg", kept, 1 + i % 8)
    text = inspect.getdoc(vae_keras.images_from_folder)
    recipe = text.split("needs them:\n\n")[1].split("\n\nArgs:")[0]
    vae = vae_keras.VAE(
        vae_keras.mlp_encoder((64, 64, 3), 2, (2,)),
        vae_keras.mlp_decoder(2, (64, 64, 3), (2,)),
    )
    vae.compile("sgd")
    names = {"images_from_folder": vae_keras.images_from_folder}
    names |= {"glob": glob, "keras": keras, "math": math, "random": random}
    names |= {"folder": tmp_path, "vae": vae}
    exec(textwrap.dedent(recipe), names)
    assert int(vae.optimizer.iterations) == 2
    batches = names["Pictures"]()
    pictures = np.concatenate([batches[i] for i in range(len(batches))])
    order = sorted(
        range(70),
        key=lambda i: os.path.split(names["files"][i]),
    )
    expected = vae_keras.images_from_folder(tmp_path, 64)
    np.testing.assert_array_equal(pictures[order], expected)


def test_the_mean_of_white_is_not_whiter(tmp_path):
    """Areas of odd sizes, whose mean TensorFlow rounds up."""
    for size in range(33, 64):
        white = np.full((size, size, 3), 255)
        keras.utils.save_img(tmp_path / f"{size}.png", white, scale=False)
    images = vae_keras.images_from_folder(tmp_path, (32, 32))
    assert images.max() == 1
    assert images.min() > 1 - 1e-6
