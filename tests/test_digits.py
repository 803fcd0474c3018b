"""The classifier of digits that is shipped, and what it makes of samples."""

import json
import pathlib
import socket

import keras
import numpy as np
import pytest

from tests.helpers import ROOT, dtype_policy
from vae_keras import digits, sample_quality


@pytest.fixture(scope="module")
def classifier():
    return digits.load_classifier()


def test_the_classifier_knows_digits_as_the_record_says(classifier, mnist_test):
    images, labels = mnist_test
    logits = classifier.predict(images, batch_size=1000, verbose=0)
    assert logits.shape == (10_000, 10)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    assert accuracy >= 0.992
    path = ROOT / "benchmarks" / "results" / "digits.json"
    record = json.loads(path.read_text())
    assert record["parameters"] == classifier.count_params()
    # Where two digits are almost equally probable, rounding may decide.
    assert record["accuracy"]["test"] == pytest.approx(accuracy, abs=1e-3)


def test_it_is_convolution_pooling_and_dense_layers(classifier):
    kinds = [type(layer).__name__ for layer in classifier.layers]
    found = [k for k in kinds if k in ("Conv2D", "MaxPooling2D", "Dense")]
    assert found == ["Conv2D", "MaxPooling2D"] * 3 + ["Dense"] * 2
    assert classifier.input_shape == (None, 28, 28, 1)
    assert classifier.output_shape == (None, 10)
    weights = pathlib.Path(digits.__file__).with_name("digits.weights.h5")
    assert weights.stat().st_size < 2**20, "the package is to stay small"


def test_features_lead_to_the_logits(classifier, images):
    features, last = classifier.get_layer("features"), classifier.layers[-1]
    assert features.units == 64
    both = keras.Model(classifier.input, [features.output, classifier.output])
    features, logits = both.predict(images, verbose=0)
    assert features.shape == (len(images), 64)
    kernel, bias = map(np.asarray, last.weights)
    np.testing.assert_allclose(features @ kernel + bias, logits, atol=1e-4)
    # They tell the images apart.
    assert len(np.unique(features, axis=0)) == len(np.unique(images, axis=0))
    found = digits.features(images)
    assert (found.shape, found.dtype) == (features.shape, "float32")
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-4)


def test_it_is_always_the_same_and_needs_no_network(
    classifier, images, monkeypatch
):
    def no_network(*args, **kwargs):
        raise AssertionError("The network was used.")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    keras.utils.set_random_seed(1)
    again = digits.load_classifier()
    assert again is not classifier
    for a, b in zip(again.get_weights(), classifier.get_weights(), strict=True):
        assert np.array_equal(a, b)
    # A layer that drops at random in training is silent in use.
    assert np.array_equal(again(images), again(images))


def test_half_precision_recognises_as_many(classifier, images):
    with dtype_policy("mixed_bfloat16"):
        mixed = digits.load_classifier()
    assert mixed.layers[1].compute_dtype == "bfloat16"
    features = mixed.get_layer("features").output
    outputs = keras.Model(mixed.input, [features, mixed.output])(images)
    assert [output.dtype for output in outputs] == ["float32"] * 2
    found = np.argmax(outputs[1], axis=1)
    expected = np.argmax(classifier(images), axis=1)
    assert np.mean(found == expected) > 0.98


def test_features_do_not_depend_on_the_policy_of_the_first_call(images):
    def forget():
        for function in vars(digits).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()

    expected = digits.features(images[:8])
    forget()
    with dtype_policy("mixed_bfloat16"):
        found = digits.features(images[:8])
    forget()
    np.testing.assert_array_equal(found, expected)


# === What it makes of samples ===


def test_histogram_of_real_digits(classifier, mnist_test):
    images, labels = mnist_test[0][:2000], mnist_test[1][:2000]
    histogram = digits.histogram(images)
    assert isinstance(histogram, digits.DigitHistogram)
    shares = np.bincount(labels, minlength=10) / 2000
    np.testing.assert_allclose(histogram.shares, shares, atol=0.005)
    assert histogram.shares.sum() == pytest.approx(1)
    p = histogram.shares
    assert histogram.evenness == pytest.approx(-np.sum(p * np.log10(p)))
    # The confidence is that of a softmax, in float64.
    logits = np.float64(classifier.predict(images, batch_size=500, verbose=0))
    logits -= logits.max(axis=1, keepdims=True)
    confidence = np.mean(1 / np.exp(logits).sum(axis=1))
    assert histogram.confidence == pytest.approx(confidence, abs=1e-5)


def test_evenness_of_one_digit_and_of_two(images, labels):
    one, two = (images[labels == digit][:1] for digit in (3, 8))
    histogram = digits.histogram(np.repeat(one, 5, axis=0))
    assert histogram.evenness == 0
    assert histogram.shares.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    histogram = digits.histogram(np.concatenate([one, two]))
    assert histogram.evenness == pytest.approx(np.log10(2))
    assert histogram.shares[[3, 8]].tolist() == [0.5, 0.5]


@pytest.fixture(scope="module")
def halves(mnist_test):
    images, _ = mnist_test
    return images[:1000], images[1000:2000]


def test_real_digits_are_nearly_perfect(halves):
    row = digits.sample_quality(*halves)
    assert isinstance(row, digits.SampleQuality)
    assert 0 < row.frechet < 6
    assert min(row.precision, row.recall) > 0.8
    assert row.density == pytest.approx(1, abs=0.15)
    assert row.coverage > 0.9  # 31/32 is expected
    assert row.evenness > 0.99
    assert row.confidence > 0.98


def test_noise_is_bad(halves):
    # Precision is not asked: noise lies in the ball of a real outlier.
    noise = np.random.default_rng(0).random((1000, 28, 28, 1), "float32")
    row = digits.sample_quality(halves[0], noise)
    assert row.frechet > 100
    assert max(row.recall, row.coverage, row.evenness) < 0.1
    assert row.density < 0.5


def test_columns_are_what_the_functions_say(halves):
    real, images = halves[0][:200], halves[1][:150] * 0.3
    features = [digits.features(x) for x in (real, images)]
    histogram = digits.histogram(images)
    precision, recall = sample_quality.precision_recall(*features)
    density, coverage = sample_quality.density_coverage(*features)
    # Each differs from the others and from what the two sets swapped give.
    assert len({precision, recall, density, coverage}) == 4
    assert digits.sample_quality(real, images)._asdict() == {
        "frechet": sample_quality.frechet_distance(*features),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "evenness": histogram.evenness,
        "confidence": histogram.confidence,
    }
