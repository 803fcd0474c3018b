"""Distances between sets of images against formulas and plain loops."""

import math

import numpy as np
import pytest
import scipy.linalg
import sklearn

from vae_keras.sample_quality import (
    density_coverage,
    frechet_distance,
    precision_recall,
)

# === Fréchet distance ===


def sample(mean, covariance, n, seed=0):
    """Points whose own mean and covariance are exactly those given."""
    points = np.random.default_rng(seed).normal(size=(n, len(mean)))
    points -= points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return mean + points @ np.real(scipy.linalg.sqrtm(covariance))


def random_gaussian(seed, width=5):
    rng = np.random.default_rng(seed)
    mean, root = rng.normal(size=width), rng.normal(size=(width, width))
    return mean, root @ root.T


def test_frechet_distance_of_known_gaussians():
    one, two = random_gaussian(0), random_gaussian(1)
    root = np.real(scipy.linalg.sqrtm(one[1] @ two[1]))
    expected = np.sum((one[0] - two[0]) ** 2)
    expected += np.trace(one[1] + two[1] - 2 * root)
    real, generated = sample(*one, 40), sample(*two, 300, seed=1)
    assert frechet_distance(real, generated) == pytest.approx(expected)
    assert frechet_distance(generated, real) == pytest.approx(expected)
    # A rotation changes nothing, nor do features that are always 0.
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    both = real @ rotation, generated @ rotation
    assert frechet_distance(*both) == pytest.approx(expected)
    both = [np.pad(features, [(0, 0), (1, 1)]) for features in both]
    assert frechet_distance(*both) == pytest.approx(expected)


def test_frechet_distance_of_one_feature():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(1, 2, (50, 1)), rng.normal(4, 3, (60, 1))
    means = real.mean() - generated.mean()
    deviations = np.std(real, ddof=1) - np.std(generated, ddof=1)
    expected = means**2 + deviations**2
    assert frechet_distance(real, generated) == pytest.approx(expected)


def test_frechet_distance_of_equals_is_zero():
    features = sample(*random_gaussian(0), 50)
    # Two features that always agree: another singular covariance.
    features = np.hstack([features, features[:, :1]])
    for factor in (1, 1000):
        distance = frechet_distance(factor * features, factor * features)
        assert distance == pytest.approx(0, abs=1e-6 * factor**2)
        assert distance >= 0


# === Balls ===


def distance(a, b):
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def radius(points, i, k):
    """From point i to its k-th nearest neighbour, which it is not itself."""
    others = [distance(points[i], p) for j, p in enumerate(points) if j != i]
    return sorted(others)[k - 1]


def balls(point, centers, k):
    """In which balls around the centers a point lies."""
    return [
        distance(point, center) <= radius(centers, i, k)
        for i, center in enumerate(centers)
    ]


def naive(real, generated, k):
    """Precision, recall, density and coverage as the papers define them."""
    inside = np.array([balls(point, real, k) for point in generated])
    reverse = np.array([balls(point, generated, k) for point in real])
    return (
        inside.any(axis=1).mean(),
        reverse.any(axis=1).mean(),
        inside.sum() / (k * len(generated)),
        inside.any(axis=0).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m"), [(30, 30), (20, 35), (35, 20)])
def test_balls_against_loops(k, n, m):
    rng = np.random.default_rng([k, n])
    real, generated = rng.normal(size=(n, 3)), rng.normal(0.4, 1, (m, 3))
    expected = naive(real, generated, k)
    assert precision_recall(real, generated, k) == pytest.approx(expected[:2])
    assert density_coverage(real, generated, k) == pytest.approx(expected[2:])
    # By default k is that of the papers.
    if k == 3:
        assert precision_recall(real, generated) == pytest.approx(expected[:2])
    if k == 5:
        assert density_coverage(real, generated) == pytest.approx(expected[2:])


def test_balls_by_hand_include_their_border():
    real = np.array([[0], [1], [3], [7]])  # radii 1, 1, 2 and 4
    generated = np.array([[5], [11], [-1], [12], [20]])  # 6, 6, 1, 1 and 8
    # In 2, 1, 1, 0 and 0 balls; 1 alone has nothing so near.
    assert precision_recall(real, generated, 1) == (3 / 5, 1)
    assert density_coverage(real, generated, 1) == (4 / 5, 3 / 4)


@pytest.mark.parametrize(("n", "m", "k"), [(90, 90, 5), (90, 50, 2)])
def test_expectation_for_equal_distributions(n, m, k):
    rng = np.random.default_rng(0)
    values = [
        density_coverage(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), k)
        for _ in range(25)
    ]
    # A ball is empty if its k neighbours are nearer than every sample.
    coverage = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    error = np.std(values, axis=0) / np.sqrt(len(values))
    assert np.all(np.abs(np.mean(values, axis=0) - [1, coverage]) < 4 * error)
    assert np.all(error < 0.04)


def test_copies_lie_on_their_rims():
    """k balls hold each in the mean, and its own does."""
    features = np.random.default_rng(0).normal(size=(400, 8)) + 3
    density, coverage = density_coverage(features, features.copy(), 5)
    assert density == pytest.approx(1.2, abs=1e-12)
    assert coverage == 1


def test_in_chunks():
    real, generated = np.random.default_rng(0).normal(size=(2, 300, 4))

    def measured():
        return (
            precision_recall(real, generated),
            density_coverage(real, generated),
        )

    whole = measured()
    with sklearn.config_context(working_memory=0.02):  # 8 rows
        assert measured() == whole


# === Refusals ===

MEASURES = [frechet_distance, precision_recall, density_coverage]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("shapes", "received"),
    [
        (((9, 3), (9, 2)), r"\(9, 3\) and \(9, 2\)"),
        (((9,), (9,)), r"\(9,\) and \(9,\)"),
        (((9, 3), (9, 3, 1)), r"\(9, 3\) and \(9, 3, 1\)"),
    ],
)
def test_wrong_shapes_are_refused(measure, shapes, received):
    message = f"Expected .*two tables.* Received: shapes {received}. Compute"
    with pytest.raises(ValueError, match=message):
        measure(*map(np.zeros, shapes))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_broken_features_are_refused(measure, value, side):
    features = np.random.default_rng(0).normal(size=(2, 9, 3))
    features[side, 4:6, 1] = value
    name = ("real_features", "features")[side]
    message = f"Expected `{name}` .* Received: NaN or .* 2 of 9 rows. Look at"
    with pytest.raises(ValueError, match=message):
        measure(*features)


def test_too_few_rows_are_refused():
    features = np.random.default_rng(0).normal(size=(20, 5))
    for both in ((features, features[:5]), (features[:5], features)):
        lengths = " and ".join(str(len(side)) for side in both)
        with pytest.raises(
            ValueError, match=f"more than 5 images.* Received: {lengths}. Pass"
        ):
            frechet_distance(*both)
        for measure in MEASURES[1:]:
            measure(*both, 4)
            if measure is density_coverage and both[0] is features:
                measure(*both, 5)  # needs neighbours of real images only
                continue
            with pytest.raises(
                ValueError, match=r"more than 5 rows.* Received: 5\. Pass"
            ):
                measure(*both, 5)
    assert frechet_distance(features[:6], features[:6]) < 1e-6
