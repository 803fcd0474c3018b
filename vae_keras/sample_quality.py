"""How good samples are: distances between two sets of images, by features.

Pixels are a bad measure of likeness, so images are compared by what a
classifier makes of them, such as the 64 features of `digits`. Every number
needs one beside it that two sets of *real* images get: what perfect looks
like. And no number stands alone: pure noise gets a precision of 1, because
one odd digit's ball holds all of it, but a coverage of almost 0.

All functions take two tables of features, float `(n, d)` of real images
and `(m, d)` of the images to compare; tables of two widths, with too few
rows or with NaN are a `ValueError`. They need the extra `evaluation`.
"""

import numpy as np

from vae_keras._checks import positive_integer


def frechet_distance(real_features, features) -> float:
    """Returns the Fréchet distance between Gaussians fitted to features.

        ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)

    Args:
        real_features, features: of real images, and of those to compare.

    Returns:
        The (squared) distance, never negative. It grows as samples get
        fewer: compare equal n and m.

    Example:
    >>> import numpy as np
    >>> from vae_keras.sample_quality import frechet_distance
    >>> features = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(features, features + [3, 4, 0]), 6)
    25.0

    Reference:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule
        Converge to a Local Nash Equilibrium", NeurIPS 2017,
        arXiv:1706.08500.
    """
    from scipy import linalg

    real_features, features = _checked_features(real_features, features)
    width = features.shape[1]
    if min(len(real_features), len(features)) <= width:
        raise ValueError(
            f"Expected more than {width} images on both sides, to fit a "
            f"covariance of {width} features. Received: "
            f"{len(real_features)} and {len(features)}. Pass thousands."
        )
    shift = real_features.mean(axis=0) - features.mean(axis=0)
    covariances = [np.cov(real_features.T), np.cov(features.T)]
    covariances = [np.atleast_2d(covariance) for covariance in covariances]
    # The trace of (Σ₁ Σ₂)^½ from its eigenvalues, which are real and not
    # negative up to rounding, even where a covariance is singular.
    eigenvalues = linalg.eigvals(covariances[0] @ covariances[1]).real
    traces = [np.trace(covariance) for covariance in covariances]
    root = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return float(max(shift @ shift + sum(traces) - 2 * root, 0))


def precision_recall(
    real_features, features, num_neighbors: int = 3
) -> tuple[float, float]:
    """Returns improved precision and recall.

    Around each image lies a ball that reaches to its k-th nearest
    neighbour in the same set. *Precision* is the share of the samples that
    lie in a ball of some real image: is what is drawn like the data?
    *Recall* is the share of the real images that lie in a ball of some
    sample: is all of the data drawn?

    Args:
        real_features, features: of real images, and of those to compare.
        num_neighbors: k; 3 is that of the paper.

    Returns:
        `(precision, recall)`, both in [0, 1].

    Example:
    >>> import numpy as np
    >>> from vae_keras.sample_quality import precision_recall
    >>> features = np.random.default_rng(0).normal(size=(100, 3))
    >>> precision_recall(features, features)
    (1.0, 1.0)

    Reference:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for
        Assessing Generative Models", NeurIPS 2019, arXiv:1904.06991.
    """
    real, generated = _checked_features(real_features, features)
    # How many balls of the other set each image lies in.
    precision = _num_balls(generated, real, _radii(real, num_neighbors)) > 0
    recall = _num_balls(real, generated, _radii(generated, num_neighbors)) > 0
    return float(precision.mean()), float(recall.mean())


def density_coverage(
    real_features, features, num_neighbors: int = 5
) -> tuple[float, float]:
    """Returns density and coverage, which outliers harm less.

    Both use the balls of `precision_recall` around real images only, rims
    included (≤, as in the paper; the package `prdc` has <, so that exact
    copies differ: 1.2 here for k = 5, and 1.0 there).
    *Density* is the mean number of balls that a sample lies in, over k.
    *Coverage* is the share of the balls with a sample in them.

    Args:
        real_features, features: of real images, and of those to compare.
        num_neighbors: k; 5 is that of the paper.

    Returns:
        `(density, coverage)`. Density may exceed 1; of samples from the
        distribution of the data it is expected to be 1.

    Example:
    >>> import numpy as np
    >>> from vae_keras.sample_quality import density_coverage
    >>> features = np.random.default_rng(0).normal(size=(100, 3))
    >>> density_coverage(features, features + 100)
    (0.0, 0.0)

    Reference:
        Naeem et al., "Reliable Fidelity and Diversity Metrics for
        Generative Models", ICML 2020, arXiv:2002.09797.
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    real, generated = _checked_features(real_features, features)
    radii = _radii(real, num_neighbors)
    density = _num_balls(generated, real, radii) / num_neighbors
    _, nearest = pairwise_distances_argmin_min(real, generated)
    covered = nearest <= radii
    return float(density.mean()), float(covered.mean())


def _checked_features(real_features, features):
    """Both tables as float64, or an error that says what is wrong."""
    tables = [
        np.asarray(table, "float64") for table in (real_features, features)
    ]
    shapes = [table.shape for table in tables]
    if any(len(shape) != 2 for shape in shapes) or (
        shapes[0][1] != shapes[1][1]
    ):
        raise ValueError(
            "Expected `real_features` and `features` to be two tables of "
            "shapes (n, d) and (m, d), one row per image. Received: shapes "
            f"{shapes[0]} and {shapes[1]}. Compute both with one network, "
            "as with `vae_keras.digits.features`."
        )
    for name, table in zip(("real_features", "features"), tables, strict=True):
        if not np.isfinite(table).all():
            broken = np.sum(~np.isfinite(table).all(axis=1))
            raise ValueError(
                f"Expected `{name}` to be finite. Received: NaN or infinity "
                f"in {broken} of {len(table)} rows. Look at these images: a "
                "model that diverged draws NaN."
            )
    return tables


def _radii(features: np.ndarray, num_neighbors: int) -> np.ndarray:
    """The distance of each row to its k-th nearest neighbour."""
    from sklearn.neighbors import NearestNeighbors

    num_neighbors = positive_integer("num_neighbors", num_neighbors)
    if len(features) <= num_neighbors:
        raise ValueError(
            f"Expected more than {num_neighbors} rows in both tables, to "
            f"find {num_neighbors} neighbours of each. Received: "
            f"{len(features)}. Pass thousands of images."
        )
    neighbors = NearestNeighbors(n_neighbors=num_neighbors).fit(features)
    distances, _ = neighbors.kneighbors()  # without the row itself
    # The neighbour is on the rim, whichever way its distance is rounded.
    return distances[:, -1] * (1 + 1e-7)


def _num_balls(points, centers, radii) -> np.ndarray:
    """How many of the balls around the centers each point lies in."""
    from sklearn.metrics import pairwise_distances_chunked

    chunks = pairwise_distances_chunked(
        points,
        centers,
        reduce_func=lambda distances, _: np.sum(distances <= radii, axis=1),
    )
    return np.concatenate(list(chunks))
