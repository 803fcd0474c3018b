"""How the latent page's weights are stored, and what they compute.

Each weight is stored as an integer times a step. A weight that matters little
gets a long step: the loss changes by about ½ F (Δw)², where F is the mean
square of the gradient with respect to the weight. For a dense layer F is
about E[h²] E[g²], with h the input and g the gradient with respect to the
output. So a step is the product of a number for the row and one for the
column, both powers of two, and of a precision, which sets how many nats all
this costs. Rows that are still to be rounded make up for the errors of those
that are. The integers are small, most of them zero, and are packed by deflate.
"""

import zlib
from typing import NamedTuple

import numpy as np

# How freely rows make up for others: added to the mean squares of inputs,
# as a share of their mean.
DAMPING = 0.01
# Means are stored as integers of this unit.
MEAN_UNIT = 1 / 256
# The noise of one draw of z for each image, wherever images are measured.
NOISE = np.random.default_rng(0).standard_normal((20_000, 2), "float32")


class Layer(NamedTuple):
    """A dense layer: `kernel` (inputs, outputs) and `bias`, float32."""

    kernel: np.ndarray
    bias: np.ndarray


class StoredLayer(NamedTuple):
    """A dense layer as the page has it.

    Attributes:
        integers: int16 `(inputs, outputs)`.
        rows: int8 `(inputs,)`: the step is 2 to the power of the row's
            number plus the column's.
        columns: int8 `(outputs,)`.
        bias: float32 `(outputs,)`.
    """

    integers: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    bias: np.ndarray

    def layer(self) -> Layer:
        """Returns the layer that the page computes with, exactly."""
        exponents = np.add.outer(self.rows, self.columns, dtype="int32")
        kernel = np.ldexp(self.integers.astype("float32"), exponents)
        return Layer(kernel, self.bias)


class Networks(NamedTuple):
    """The layers of an encoder and a decoder, with ReLU between them.

    The encoder's last layer gives means and log-variances side by side.
    """

    encoder: list
    decoder: list


# === Arithmetic: what the page does, in NumPy ===


def activations(layers, h) -> list[np.ndarray]:
    """Returns the inputs `(n, width)` of each layer, and the last output."""
    inputs = [h]
    for i, layer in enumerate(layers):
        h = h @ layer.kernel + layer.bias
        if i < len(layers) - 1:
            h = np.maximum(h, 0)
        inputs.append(h)
    return inputs


def encode(networks: Networks, x) -> tuple[np.ndarray, np.ndarray]:
    """Returns z_mean and z_log_var, each `(n, latent_dim)`."""
    output = activations(networks.encoder, x)[-1]
    z_mean, z_log_var = np.split(output, 2, axis=1)
    return z_mean, z_log_var


def decode(networks: Networks, z) -> np.ndarray:
    """Returns logits `(n, pixels)`."""
    return activations(networks.decoder, z)[-1]


def bernoulli_nll(x, logits) -> np.ndarray:
    """Returns −log p(x|z) in nats per image `(n,)`, from logits."""
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    return np.sum(softplus - x * logits, axis=1, dtype="float64")


def terms(networks: Networks, x, epsilon) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reconstruction loss and the KL, in nats per image `(n,)`.

    Args:
        networks: the layers.
        x: images in [0, 1], `(n, pixels)`.
        epsilon: the noise of one draw of z, `(n, latent_dim)`.
    """
    z_mean, z_log_var = encode(networks, x)
    logits = decode(networks, z_mean + np.exp(0.5 * z_log_var) * epsilon)
    kl = 0.5 * (z_mean**2 + np.expm1(z_log_var) - z_log_var)
    return bernoulli_nll(x, logits), kl.sum(axis=1, dtype="float64")


def integrated(networks: Networks, x) -> float:
    """Returns −log p(x) of one image `(1, pixels)`, summed over a grid of z."""
    axis = np.linspace(-7, 7, 141, dtype="float32")
    step = axis[1] - axis[0]
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_joint = -bernoulli_nll(x, decode(networks, z))
    log_joint -= 0.5 * np.sum(z**2, axis=1) + np.log(2 * np.pi)
    largest = log_joint.max()
    total = np.sum(np.exp(log_joint - largest)) * step**2
    return float(-largest - np.log(total))


# === Storing weights ===


class Statistics(NamedTuple):
    """What goes through a dense layer, over images.

    Attributes:
        moments: the mean products of its inputs, to which a 1 is added for
            the bias, `(inputs + 1, inputs + 1)`.
        gradients_rms: the root mean squares of the loss's gradients with
            respect to the outputs, before ReLU, `(outputs,)`.
    """

    moments: np.ndarray
    gradients_rms: np.ndarray


def statistics_of(networks: Networks, x, epsilon, beta: float):
    """Measures what goes through each layer, forwards and backwards.

    Args:
        networks: the layers.
        x, epsilon: as in `terms`.
        beta: the weight of the KL term in the loss.

    Returns:
        The `Statistics` of each layer, encoder first.
    """
    encoder = activations(networks.encoder, x)
    z_mean, z_log_var = np.split(encoder[-1], 2, axis=1)
    deviation = np.exp(0.5 * z_log_var) * epsilon
    decoder = activations(networks.decoder, z_mean + deviation)
    gradient = 0.5 * (1 + np.tanh(0.5 * decoder[-1])) - x  # sigmoid
    of_decoder, gradient = _backwards(networks.decoder, decoder, gradient)
    # The loss depends on the encoder's output through z and through the KL.
    to_mean = gradient + beta * z_mean
    to_log_var = gradient * deviation / 2 + beta / 2 * np.expm1(z_log_var)
    gradient = np.concatenate([to_mean, to_log_var], axis=1)
    of_encoder, _ = _backwards(networks.encoder, encoder, gradient)
    return of_encoder + of_decoder


def _backwards(layers, inputs, gradient) -> tuple[list, np.ndarray]:
    """Returns the layers' statistics, and the gradient of their input."""
    found = []
    for i in reversed(range(len(layers))):
        h = np.pad(inputs[i], ((0, 0), (0, 1)), constant_values=1)
        moments = (h.T @ h).astype("float64") / len(h)
        found.append(Statistics(moments, rms(gradient)))
        gradient = gradient @ layers[i].kernel.T
        if i > 0:
            gradient *= inputs[i] > 0
    return found[::-1], gradient


def rms(values) -> np.ndarray:
    """Returns root mean squares over the first axis."""
    return np.sqrt(np.mean(np.square(values, dtype="float64"), axis=0))


def stored(layer: Layer, statistics: Statistics, precision) -> StoredLayer:
    """Rounds a layer's weights to integers times their steps.

    One row after the other is rounded, and the rows that are still to come,
    the bias last, move so that they take over what they can of its error.

    Args:
        layer: the layer.
        statistics: what goes through it.
        precision: the step of a weight for which the root mean squares of
            its input and of its output's gradient are 1.

    Reference:
        Frantar et al., "GPTQ: Accurate Post-Training Quantization for
        Generative Pre-trained Transformers", ICLR 2023, arXiv:2210.17323.
    """
    num_inputs = len(layer.kernel)
    squares = np.diagonal(statistics.moments)[:num_inputs]
    rows = np.rint(-np.log2(_floored(np.sqrt(squares))))
    columns = np.rint(np.log2(precision / _floored(statistics.gradients_rms)))
    # No weight is more than 2¹⁴ steps, for int16.
    largest = np.max(np.abs(layer.kernel) * np.exp2(-rows)[:, None], axis=0)
    columns = np.maximum(columns, np.ceil(np.log2(largest + 1e-30)) - 14)
    steps = np.exp2(np.add.outer(rows, columns))
    # How far rows move is in the Cholesky factor of the inverse moments. The
    # first of them are those with the largest inputs.
    order = np.append(np.argsort(-squares), num_inputs)
    moments = statistics.moments[np.ix_(order, order)]
    damping = DAMPING * squares.mean() + 1e-9
    inverse = np.linalg.inv(moments + damping * np.eye(len(order)))
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    weights = np.vstack([layer.kernel, layer.bias]).astype("float64")[order]
    integers = np.empty(layer.kernel.shape)
    for i, row in enumerate(order[:-1]):
        integers[row] = np.rint(weights[i] / steps[row])
        error = (weights[i] - integers[row] * steps[row]) / factor[i, i]
        weights[i + 1 :] -= np.outer(factor[i, i + 1 :], error)
    return StoredLayer(
        integers.astype("int16"),
        rows.astype("int8"),
        columns.astype("int8"),
        weights[-1].astype("float32"),
    )


def _floored(sizes) -> np.ndarray:
    """Takes the smallest sizes for larger than they were measured.

    A pixel that the training digits never light may be lit in a drawing, and
    the logit of a pixel that is always dark has no gradient because it is far
    below 0, where it has to stay.
    """
    return np.maximum(sizes, max(1e-9, 0.03 * rms(sizes)))


def stored_networks(networks: Networks, images, beta, precision) -> Networks:
    """Stores all layers, with `images` `(n, pixels)` to measure by."""
    # Blank pages as well: the page has one, and no digit is like it.
    blank = np.zeros((len(images) // 20, images.shape[1]), "float32")
    images = np.concatenate([images, blank])
    epsilon = NOISE[: len(images)]
    statistics = statistics_of(networks, images, epsilon, beta)
    layers = [
        stored(layer, its_statistics, precision)
        for layer, its_statistics in zip(
            [*networks.encoder, *networks.decoder], statistics, strict=True
        )
    ]
    num_encoder = len(networks.encoder)
    return Networks(layers[:num_encoder], layers[num_encoder:])


def unpacked(networks: Networks) -> Networks:
    """Returns stored networks as the page computes with them."""
    return Networks(*([x.layer() for x in part] for part in networks))


def pack(models: list[Networks], means: list, labels, images) -> bytes:
    """Packs all that latent.js unpacks, in its order.

    Args:
        models: stored networks.
        means: the posterior means of each, `(NUM_DIGITS, latent_dim)`.
        labels: of these digits, `(NUM_DIGITS,)`.
        images: those that can be picked, bytes `(NUM_IMAGES, pixels)`.
    """
    parts = [labels.astype("uint8"), images]
    for networks, z_mean in zip(models, means, strict=True):
        parts.append(np.rint(z_mean / MEAN_UNIT).astype("<i2"))
        for layer in [*networks.encoder, *networks.decoder]:
            integers = layer.integers.astype("<i2")
            # Deflate gains where the weights of neighbouring pixels follow
            # one another.
            if layer.bias.size != images.shape[1]:
                integers = np.ascontiguousarray(integers.T)
            # Low bytes, then high bytes, which are nearly all 0 or −1.
            planes = integers.view("uint8")
            parts += [planes[:, 0::2], planes[:, 1::2]]
            parts += [layer.rows, layer.columns, layer.bias.astype("<f4")]
    compressor = zlib.compressobj(9, strategy=zlib.Z_FILTERED)
    data = b"".join(part.tobytes() for part in parts)
    return compressor.compress(data) + compressor.flush()
