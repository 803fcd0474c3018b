"""Variational autoencoders for Keras 3 on TensorFlow, with a tutorial."""

from vae_keras.checks import check_images
from vae_keras.data import image_dataset, load_mnist
from vae_keras.judge import load_judge
from vae_keras.layers import Sampling
from vae_keras.losses import bernoulli_nll, gaussian_kl
from vae_keras.models import VAE
from vae_keras.networks import (
    conv_decoder,
    conv_encoder,
    mlp_decoder,
    mlp_encoder,
)
from vae_keras.plotting import (
    plot_history,
    plot_images,
    plot_interpolation,
    plot_latent_grid,
    plot_latent_space,
    plot_reconstructions,
)

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "Sampling",
    "bernoulli_nll",
    "check_images",
    "conv_decoder",
    "conv_encoder",
    "gaussian_kl",
    "image_dataset",
    "load_judge",
    "load_mnist",
    "mlp_decoder",
    "mlp_encoder",
    "plot_history",
    "plot_images",
    "plot_interpolation",
    "plot_latent_grid",
    "plot_latent_space",
    "plot_reconstructions",
]
