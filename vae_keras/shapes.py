"""Whether networks fit together: errors that explain, at construction."""

import keras


def matching_shapes(
    encoder, decoder, is_posterior: bool = True
) -> tuple[tuple, tuple]:
    """Returns the shapes of an image and of a latent, or says what differs.

    Args:
        encoder: a Keras model from images to latents.
        decoder: a Keras model from latents to logits.
        is_posterior: whether the encoder has to return two tensors, z_mean
            and z_log_var. If not, its first output is the latent.

    Returns:
        `(image_shape, latent_shape)`, without the batch.

    Raises:
        ValueError: if the networks do not fit together.
    """
    image_shape = _input_shape(encoder)
    outputs = encoder(keras.KerasTensor((None, *image_shape)))
    shapes = _shapes(outputs)
    is_pair = isinstance(outputs, (list, tuple)) and len(shapes) == 2
    if is_posterior and not (is_pair and shapes[0] == shapes[1]):
        raise ValueError(
            "Expected `encoder` to return [z_mean, z_log_var], two tensors "
            f"of one shape. Received: tensors of shapes {shapes}. Give it "
            "one output layer for each of the two."
        )
    _check_decoder(decoder, shapes[0], image_shape, "encoder")
    return image_shape, shapes[0]


def matching_shapes_of_gan(decoder, discriminator) -> tuple[tuple, tuple]:
    """As `matching_shapes`, for a decoder whose images a network judges.

    Args:
        decoder: a Keras model from latents to logits of pixels.
        discriminator: a Keras model from images to one logit, its first
            output.

    Returns:
        `(image_shape, latent_shape)`, without the batch.

    Raises:
        ValueError: if the networks do not fit together.
    """
    image_shape = _input_shape(discriminator)
    latent_shape = _input_shape(decoder)
    _check_decoder(decoder, latent_shape, image_shape, "discriminator")
    shapes = _shapes(discriminator(keras.KerasTensor((None, *image_shape))))
    if shapes[0] != (1,):
        raise ValueError(
            "Expected `discriminator` to return one logit for each image, "
            f"shape (1,). Received: {shapes[0]}. End it with "
            "`keras.layers.Dense(1)`, or use an encoder with `latent_dim=1`."
        )
    return image_shape, latent_shape


def _check_decoder(decoder, latent_shape, image_shape, reader: str) -> None:
    """Raises an error unless latents become what `reader` takes as images."""
    if None in image_shape or None in latent_shape:
        raise ValueError(
            "Expected fixed image and latent shapes. Received: images "
            f"{image_shape} and latents {latent_shape}. Fix the sizes in "
            "the networks' `keras.Input`."
        )
    try:
        logits = decoder(keras.KerasTensor((None, *latent_shape)))
        decoded_shape = tuple(logits.shape[1:])
    except ValueError as error:
        raise ValueError(
            "Expected `decoder` to take the latents that `encoder` gives, "
            f"shape {latent_shape}. Received: a decoder that takes shape "
            f"{_input_shape(decoder)}. Use the same `latent_dim` for both."
        ) from error
    if decoded_shape != image_shape:
        raise ValueError(
            "Expected `decoder` to return logits of the shape of the images "
            f"that `{reader}` takes, {image_shape}. Received: "
            f"{decoded_shape}. Use the same `image_shape` for both."
        )


def _shapes(outputs) -> list[tuple]:
    """The shapes of one tensor or of several, without the batch."""
    return [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]


def _input_shape(network) -> tuple:
    """The input shape of a Keras model of any kind, without the batch."""
    shape = getattr(network, "input_shape", None)
    if shape is None:
        shape = (network.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(
            "Expected a network that knows its input shape. Received: "
            f"{network.name!r}, which is not built. Call it once on a batch "
            "first, or use `network.build((None, …))`."
        )
    return tuple(shape[1:])
