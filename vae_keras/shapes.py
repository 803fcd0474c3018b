"""Whether networks fit together: errors that explain, at construction."""

import keras


def matching_shapes(
    encoder,
    decoder,
    is_posterior: bool = True,
    to_means=None,
    num_classes: int | None = None,
) -> tuple[tuple, tuple]:
    """Returns the shapes of an image and of a latent, or says what differs.

    Args:
        encoder: a Keras model from images to latents.
        decoder: a Keras model from latents to logits.
        is_posterior: whether the encoder has to return two tensors, z_mean
            and z_log_var. If not, its first output is the latent.
        to_means: a layer from the decoder's outputs to pixel means; `None`
            where they have the same shape.
        num_classes: the width of the one-hot labels that both networks take
            as their second input, if they do.

    Returns:
        `(image_shape, latent_shape)`, without the batch.

    Raises:
        ValueError: if the networks do not fit together.
    """
    image_shape = _input_shape(encoder, num_classes)
    outputs = encoder(_inputs(image_shape, num_classes))
    shapes = _shapes(outputs)
    is_pair = isinstance(outputs, (list, tuple)) and len(shapes) == 2
    if is_posterior and not (is_pair and shapes[0] == shapes[1]):
        raise ValueError(
            "Expected `encoder` to return [z_mean, z_log_var], two tensors "
            f"of one shape. Received: tensors of shapes {shapes}. Give it "
            "one output layer for each of the two."
        )
    _check_decoder(
        decoder, shapes[0], image_shape, "encoder", to_means, num_classes
    )
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
        outputs = decoder(_inputs(latent_shape, num_classes))
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


def _shapes(outputs) -> list[tuple]:
    """The shapes of one tensor or of several, without the batch."""
    return [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]


def _inputs(shape, num_classes):
    """A symbolic batch of this shape, and one-hot labels if there are any."""
    batch = keras.KerasTensor((None, *shape))
    if num_classes is None:
        return batch
    return [batch, keras.KerasTensor((None, num_classes))]


def _input_shape(network, num_classes=None) -> tuple:
    """The shape of a network's images or latents, without the batch."""
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
    shapes = [tuple(s[1:]) for s in ([shape] if is_single else shape)]
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
