"""Training loop with checkpoints, optimizers, noise, execution options, and warnings about unhealthy losses.

The recipes define the networks, losses and training steps.
"""

from common.system.console import tracked
from common.training.canvas import (
    ImageProgress,
    Painting,
    layer_weights,
    read_photo,
    read_style,
    resize_pixels,
    smallest_side,
)
from common.training.execution import Execution, executing
from common.training.health import DISCRIMINATOR_DOMINATES, GAN_SIGNS, MODE_COLLAPSE
from common.training.loop import fit
from common.training.noise import Noise
from common.training.optimizers import adam
from common.training.prediction import predict
from common.training.saves import write_history

__all__ = [
    "DISCRIMINATOR_DOMINATES",
    "Execution",
    "GAN_SIGNS",
    "ImageProgress",
    "MODE_COLLAPSE",
    "Noise",
    "Painting",
    "adam",
    "executing",
    "fit",
    "layer_weights",
    "predict",
    "read_photo",
    "read_style",
    "resize_pixels",
    "smallest_side",
    "tracked",
    "write_history",
]
