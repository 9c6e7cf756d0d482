"""Synthetic images, and sample images from scikit-learn and scikit-image. They let every demo run offline."""

from common.samples.clothes import CLOTHES_CLASSES, synthetic_clothes
from common.samples.digits import sklearn_digits
from common.samples.faces import FACE_ATTRIBUTES, PORTRAITS, synthetic_faces
from common.samples.handwriting import handwritten_digits
from common.samples.seasons import synthetic_seasons
from common.samples.sketches import sketch_pairs
from common.samples.streets import street_pairs

__all__ = [
    "CLOTHES_CLASSES",
    "FACE_ATTRIBUTES",
    "PORTRAITS",
    "handwritten_digits",
    "sketch_pairs",
    "sklearn_digits",
    "street_pairs",
    "synthetic_clothes",
    "synthetic_faces",
    "synthetic_seasons",
]
