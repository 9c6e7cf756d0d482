"""Metrics for image pairs, image sets, classifiers and latents. The tests compare them with other implementations."""

from common.metrics.classification import accuracy, temperature_scale
from common.metrics.latents import NormalMap, nearest
from common.metrics.scores import pair_scores, sample_diversity, sample_scores

__all__ = [
    "NormalMap",
    "accuracy",
    "nearest",
    "pair_scores",
    "sample_diversity",
    "sample_scores",
    "temperature_scale",
]
