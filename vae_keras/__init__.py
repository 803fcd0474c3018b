"""Variational autoencoders for Keras 3 on TensorFlow, with a tutorial."""

from vae_keras import (  # noqa: F401
    baselines,
    callbacks,
    code_prior,
    digits,
    discrete,
    likelihoods,
    priors,
    sample_quality,
    schematics,
)
from vae_keras._checks import check_images
from vae_keras.data import image_dataset, images_from_folder, load_mnist
from vae_keras.discrete import DiscreteVAE
from vae_keras.evaluation import (
    active_units,
    importance_weighted_nll,
    kl_per_dimension,
)
from vae_keras.iwae import IWAE
from vae_keras.layers import Sampling
from vae_keras.losses import bernoulli_nll, gaussian_kl
from vae_keras.models import VAE, ConditionalVAE
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
from vae_keras.spatial import SpatialVAE

__version__ = "0.1.0"

__all__ = [
    "IWAE",
    "VAE",
    "ConditionalVAE",
    "DiscreteVAE",
    "Sampling",
    "SpatialVAE",
    "active_units",
    "bernoulli_nll",
    "check_images",
    "conv_decoder",
    "conv_encoder",
    "gaussian_kl",
    "image_dataset",
    "images_from_folder",
    "importance_weighted_nll",
    "kl_per_dimension",
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
