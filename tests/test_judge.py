"""The judge that is shipped: what it can do, and what the record says."""

import json
import pathlib
import socket

import keras
import numpy as np
import pytest

import vae_keras
from vae_keras.judge import WEIGHTS, _judge_with_features

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def judge():
    return vae_keras.load_judge()


@pytest.fixture(scope="module")
def accuracy(judge, mnist_test):
    """The share of the test digits that the judge recognises."""
    images, labels = mnist_test
    logits = judge.predict(images, batch_size=1000, verbose=0)
    assert logits.shape == (10_000, 10)
    return np.mean(logits.argmax(axis=1) == labels)


def test_the_judge_knows_digits(accuracy):
    assert accuracy >= 0.992


def test_the_record_is_of_these_weights(judge, accuracy):
    record = json.loads((RESULTS / "judge.json").read_text())
    assert record["parameters"] == judge.count_params()
    assert record["accuracy"]["test"] == pytest.approx(accuracy, abs=1e-4)


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size < 2**20


def test_the_judge_is_convolution_pooling_and_dense_layers(judge):
    kinds = [type(layer).__name__ for layer in judge.layers]
    found = [k for k in kinds if k in ("Conv2D", "MaxPooling2D", "Dense")]
    assert found == ["Conv2D", "MaxPooling2D"] * 3 + ["Dense"] * 2
    assert judge.input_shape == (None, 28, 28, 1)
    assert judge.output_shape == (None, 10)


def test_features_lead_to_the_logits(judge, images):
    features, last = judge.get_layer("features"), judge.layers[-1]
    assert features.units == 64
    both = keras.Model(judge.input, [features.output, judge.output])
    features, logits = both.predict(images, verbose=0)
    assert features.shape == (len(images), 64)
    kernel, bias = map(np.asarray, last.weights)
    np.testing.assert_allclose(features @ kernel + bias, logits, atol=1e-4)
    # They tell the images apart.
    assert len(np.unique(features, axis=0)) == len(np.unique(images, axis=0))


def test_it_is_one_judge_and_needs_no_network(judge, images, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("The network was used.")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    keras.utils.set_random_seed(1)
    again = vae_keras.load_judge()
    assert again is not judge
    for a, b in zip(again.get_weights(), judge.get_weights(), strict=True):
        assert np.array_equal(a, b)
    # A layer that drops at random in training is silent in use.
    assert np.array_equal(again(images), again(images))


def test_features_and_logits_are_float32_under_mixed_precision(judge, images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = vae_keras.load_judge()
    finally:
        keras.config.set_dtype_policy("float32")
    assert mixed.layers[1].compute_dtype == "bfloat16"
    features = mixed.get_layer("features").output
    outputs = keras.Model(mixed.input, [features, mixed.output])(images)
    assert [output.dtype for output in outputs] == ["float32"] * 2
    digits = np.argmax(outputs[1], axis=1)
    expected = np.argmax(judge(images), axis=1)
    assert np.mean(digits == expected) > 0.98


# === What it makes of images ===


def test_judge_features_are_those_of_the_layer(judge, mnist_test):
    images = mnist_test[0][:600]
    layer = keras.Model(judge.input, judge.get_layer("features").output)
    features = vae_keras.judge_features(images)
    assert (features.shape, features.dtype) == ((600, 64), "float32")
    np.testing.assert_allclose(features, layer(images), rtol=1e-4, atol=1e-4)


def test_histogram_of_real_digits(judge, mnist_test):
    images, labels = mnist_test[0][:2000], mnist_test[1][:2000]
    histogram = vae_keras.digit_histogram(images)
    shares = np.bincount(labels, minlength=10) / 2000
    np.testing.assert_allclose(histogram.shares, shares, atol=0.005)
    assert histogram.shares.sum() == pytest.approx(1)
    p = histogram.shares
    assert histogram.evenness == pytest.approx(-np.sum(p * np.log10(p)))
    # The confidence is that of a softmax, in float64.
    logits = np.float64(judge.predict(images, batch_size=500, verbose=0))
    logits -= logits.max(axis=1, keepdims=True)
    confidence = np.mean(1 / np.exp(logits).sum(axis=1))
    assert histogram.confidence == pytest.approx(confidence, abs=1e-5)


def test_evenness_of_one_digit_and_of_two(images, labels):
    one, two = (images[labels == digit][:1] for digit in (3, 8))
    histogram = vae_keras.digit_histogram(np.repeat(one, 5, axis=0))
    assert histogram.evenness == 0
    assert histogram.shares.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    histogram = vae_keras.digit_histogram(np.concatenate([one, two]))
    assert histogram.evenness == pytest.approx(np.log10(2))
    assert histogram.shares[[3, 8]].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "judging", [vae_keras.judge_features, vae_keras.digit_histogram]
)
def test_images_that_are_no_digits_are_refused(judging, images):
    for bad, remedy in ((images[:, 2:], "Resize"), (255 * images, "by 255")):
        message = rf"Expected .*\(batch, 28, 28, 1\).* Received: .*{remedy}"
        with pytest.raises(ValueError, match=message):
            judging(bad)


def test_features_do_not_depend_on_the_policy_of_the_first_call(mnist_test):
    images, _ = mnist_test
    _judge_with_features.cache_clear()
    expected = vae_keras.judge_features(images[:8])
    _judge_with_features.cache_clear()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        features = vae_keras.judge_features(images[:8])
    finally:
        keras.config.set_dtype_policy("float32")
        _judge_with_features.cache_clear()
    np.testing.assert_array_equal(features, expected)
