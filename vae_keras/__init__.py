"""Variational autoencoders for Keras 3 on TensorFlow, with a tutorial."""

from vae_keras.baselines import GAN, Autoencoder
from vae_keras.callbacks import CollapseMonitor, KLWarmUp, SampleGrid
from vae_keras.checks import check_images
from vae_keras.conditional import ConditionalVAE
from vae_keras.data import image_dataset, images_from_folder, load_mnist
from vae_keras.evaluation import (
    active_units,
    importance_weighted_nll,
    kl_per_dimension,
)
from vae_keras.judge import digit_histogram, judge_features, load_judge
from vae_keras.layers import Sampling
from vae_keras.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    Likelihood,
    bits_per_dimension,
)
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
from vae_keras.sample_quality import (
    density_coverage,
    frechet_distance,
    precision_recall,
    sample_quality,
)
from vae_keras.spatial import (
    RowColumnGaussian,
    SpatialVAE,
    spatial_decoder,
    spatial_encoder,
)

__version__ = "0.1.0"

__all__ = [
    "GAN",
    "VAE",
    "Autoencoder",
    "Bernoulli",
    "CollapseMonitor",
    "ConditionalVAE",
    "ContinuousBernoulli",
    "Gaussian",
    "KLWarmUp",
    "Likelihood",
    "RowColumnGaussian",
    "SampleGrid",
    "Sampling",
    "SpatialVAE",
    "active_units",
    "bernoulli_nll",
    "bits_per_dimension",
    "check_images",
    "conv_decoder",
    "conv_encoder",
    "density_coverage",
    "digit_histogram",
    "frechet_distance",
    "gaussian_kl",
    "image_dataset",
    "images_from_folder",
    "importance_weighted_nll",
    "judge_features",
    "kl_per_dimension",
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
    "precision_recall",
    "sample_quality",
    "spatial_decoder",
    "spatial_encoder",
]
