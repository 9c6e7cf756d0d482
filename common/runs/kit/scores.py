"""Scores."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.neighbors import NearestNeighbors


def pair_scores(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Return the mean absolute difference in [0, 1], the PSNR in dB and the SSIM of pairs of uint8 images."""
    differences = (real.astype(np.float64) - fake) / 255
    psnr = -10 * np.log10(np.mean(differences**2, axis=(1, 2, 3)))
    ssim = [float(tf.image.ssim(tf.constant(one), tf.constant(two), 255)) for one, two in zip(real, fake, strict=True)]
    return {"l1": float(np.abs(differences).mean()), "psnr": float(psnr.mean()), "ssim": float(np.mean(ssim))}


def accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the fraction of images whose most probable class is correct."""
    return float((probabilities.argmax(1) == labels).mean())


def temperature_scale(margins: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor for logits that minimises the cross entropy: temperature scaling (Guo et al. 2017)."""

    def loss(log_scale: float) -> float:
        return -float(np.mean(log_softmax(np.exp(log_scale) * margins, axis=1)[np.arange(len(labels)), labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5)).x))


def nearest(latents: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` latents nearest to each query: int64 [queries, count]."""
    return NearestNeighbors(n_neighbors=count).fit(latents).kneighbors(queries, return_distance=False)
