"""Errors that explain: networks that do not fit together, or not a loss."""

import warnings

import keras
import numpy as np


def matching_shapes(
    encoder, decoder, is_posterior=True, to_means=None, num_classes=None
) -> tuple[tuple, tuple]:
    """Returns the shapes of an image and of a latent, or says what differs.

    Args:
        encoder, decoder: Keras models, images to latents to logits.
        is_posterior: whether the encoder has to return two tensors, z_mean
            and z_log_var. If not, its first output is the latent.
        to_means: a layer from the decoder's outputs to pixel means; `None`
            where they have the same shape.
        num_classes: the width of the one-hot labels that both networks take
            as their second input, if they do.
    """
    image_shape = _input_shape(encoder, num_classes)
    outputs = encoder(_symbolic(image_shape, num_classes))
    shapes = _shapes(outputs)
    is_pair = isinstance(outputs, (list, tuple)) and len(shapes) == 2
    if is_posterior and not (is_pair and shapes[0] == shapes[1]):
        remedy = "Give it one output layer for each of the two."
        if len(shapes) == 3:  # As in keras.io's example, a sample z as well.
            remedy = (
                "The model draws z itself: pass `keras.Model(encoder.inputs, "
                "encoder.outputs[:2])`."
            )
        raise ValueError(
            "Expected `encoder` to return [z_mean, z_log_var], two tensors "
            f"of one shape. Received: tensors of shapes {shapes}. {remedy}"
        )
    if is_posterior:
        for i, output in enumerate(("z_mean", "z_log_var")):
            layer, activation = _last_activation(encoder, i)
            if activation in _NEVER_NEGATIVE:
                raise ValueError(
                    f"Expected `encoder` to return a {output} of any sign. "
                    f"Received: the layer {layer!r} with the activation "
                    f"{activation!r}. Give it none."
                )
    latent_shape = shapes[0]
    _check_decoder(
        decoder, latent_shape, image_shape, "encoder", to_means, num_classes
    )
    return image_shape, latent_shape


def matching_shapes_of_gan(decoder, discriminator) -> tuple[tuple, tuple]:
    """As `matching_shapes`, for a decoder and what tells its images apart."""
    image_shape = _input_shape(discriminator)
    latent_shape = _input_shape(decoder)
    _check_decoder(decoder, latent_shape, image_shape, "discriminator")
    _check_logits(discriminator, "discriminator")
    shapes = _shapes(discriminator(_symbolic(image_shape)))
    if shapes[0] != (1,):
        raise ValueError(
            "Expected `discriminator` to return one logit for each image, "
            f"shape (1,). Received: {shapes[0]}. End it with "
            "`keras.layers.Dense(1)`, or use an encoder with `latent_dim=1`."
        )
    return image_shape, latent_shape


def number_of_classes(encoder) -> int:
    """Returns the width of the one-hot labels, an encoder's second input."""
    shapes = _input_shapes(encoder)
    if len(shapes) != 2 or len(shapes[1]) != 1:
        raise ValueError(
            f"Expected {encoder.name!r} to take images and one-hot labels "
            f"(num_classes,). Received: a network of inputs of shapes {shapes}"
            ". Build it with `num_classes`, or use `VAE` without labels."
        )
    return shapes[1][0]


def _check_decoder(
    decoder, latent_shape, image_shape, reader, to_means=None, num_classes=None
) -> None:
    """Raises an error unless latents become what `reader` takes as images."""
    if None in image_shape or None in latent_shape:
        raise ValueError(
            "Expected fixed image and latent shapes. Received: images "
            f"{image_shape} and latents {latent_shape}. Fix the sizes in "
            "the networks' `keras.Input`."
        )
    try:
        outputs = decoder(_symbolic(latent_shape, num_classes))
    except ValueError as error:
        raise ValueError(
            "Expected `decoder` to take the latents that `encoder` gives, "
            f"shape {latent_shape}. Received: a decoder that takes shape "
            f"{_input_shape(decoder, num_classes)}. Use the same "
            "`latent_dim` for both."
        ) from error
    means = outputs if to_means is None else to_means(outputs)
    decoded_shape = tuple(means.shape[1:])
    if decoded_shape != image_shape:
        raise ValueError(
            "Expected `decoder` to return logits of the shape of the images "
            f"that `{reader}` takes, {image_shape}. Received: "
            f"{decoded_shape}. Use the same `image_shape` for both."
        )
    if not getattr(to_means, "takes_logits", True):
        return
    if _check_logits(decoder, "decoder") is None:
        inputs = keras.random.normal((64, *latent_shape), seed=0)
        if num_classes is not None:
            inputs = [inputs, keras.ops.eye(64, num_classes)]
        if np.min(decoder(inputs, training=False)) >= 0:
            warnings.warn(
                "Expected `decoder` to return logits. Received: no number "
                "below 0 for 64 random latents. If it ends in a sigmoid, "
                "leave that out: the loss is computed from logits.",
                stacklevel=5,
            )


# Activations of Keras whose values have one sign.
_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softplus")
_NEVER_NEGATIVE += ("softmax", "exponential", "ReLU", "Softmax")
_LAYERS = ("ReLU", "Softmax", "LeakyReLU", "PReLU", "ELU")


def _check_logits(network, argument: str) -> str | None:
    """Raises an error if a network's outputs cannot be all real numbers.

    Returns the last activation, if the network tells what that is.
    """
    layer, activation = _last_activation(network)
    if activation not in (None, "linear"):
        raise ValueError(
            f"Expected `{argument}` to return logits, any real numbers. "
            f"Received: the layer {layer!r} with the activation "
            f"{activation!r}. Give it none: the loss is computed from logits."
        )
    return activation


def _last_activation(network, index: int = 0) -> tuple[str, str | None]:
    """A network's last layer with an activation, and what that is.

    Only functional models tell; of others the activation is `None`.
    """
    tensors = keras.tree.flatten(getattr(network, "outputs", None) or [])
    tensor = tensors[index] if tensors else None
    while tensor is not None:
        layers = [layer for layer in network.layers if _gives(layer, tensor)]
        if not layers:
            break
        (layer, *_) = layers
        name = type(layer).__name__
        activation = getattr(layer, "activation", None)
        activation = name if name in _LAYERS else activation
        activation = getattr(activation, "__name__", activation)
        # What only moves numbers around, or does nothing, hides no other.
        moves = name in ("Reshape", "Flatten", "Cropping2D", "Activation")
        if not moves or activation not in (None, "linear"):
            return layer.name, activation
        tensor = layer.input
    return network.name, None


def _gives(layer, tensor) -> bool:
    outputs = getattr(layer, "output", None)
    return any(output is tensor for output in keras.tree.flatten(outputs))


def _shapes(outputs) -> list[tuple]:
    """The shapes of one tensor or of several, without the batch."""
    return [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]


def _symbolic(shape, num_classes=None):
    """A symbolic batch of this shape, and one-hot labels if there are any."""
    batch = keras.KerasTensor((None, *shape))
    if num_classes is None:
        return batch
    return [batch, keras.KerasTensor((None, num_classes))]


def _input_shapes(network) -> list[tuple]:
    """The shapes of a network's inputs, without the batch."""
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            "Expected a network that knows its input shape. Received: "
            f"{network.name!r}, which is not built. Call it once on a batch "
            "first, or use `network.build((None, …))`."
        )
    is_single = shape[0] is None or isinstance(shape[0], int)
    return [tuple(s[1:]) for s in ([shape] if is_single else shape)]


def _input_shape(network, num_classes=None) -> tuple:
    """The shape of a network's images or latents, without the batch."""
    shapes = _input_shapes(network)
    labels = [] if num_classes is None else [(num_classes,)]
    if shapes[1:] != labels:
        expected = "one input, images or latents"
        remedy = "For networks that take labels, use `ConditionalVAE`."
        if labels:
            expected += f", and a second, one-hot labels {labels[0]}"
            remedy = f"Build it with `num_classes={num_classes}`."
        raise ValueError(
            f"Expected {network.name!r} to take {expected}. Received: a "
            f"network of inputs of shapes {shapes}. {remedy}"
        )
    return shapes[0]
