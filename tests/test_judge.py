"""The judge that is shipped: what it can do, and what the record says."""

import json
import pathlib
import socket

import keras
import numpy as np
import pytest

import vae_keras
from vae_keras.judge import WEIGHTS

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
