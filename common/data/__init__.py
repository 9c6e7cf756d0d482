"""Read images from folders, .npz and idx files, TensorFlow Datasets, shards and the built-in data sets.

Each reader takes the value of `--data` and returns an object with training and held-out examples. The object's
`batches` method returns a seeded stream of batches for `common.training.fit`.
"""

from common.data.attributes import attributed_images
from common.data.batches import Batches, Examples
from common.data.datasets import image_pairs, images_of
from common.data.domains import Domains, save_translations, unpaired_images
from common.data.labelled import Labelled, labelled_images
from common.data.people import PersonShift, convert_faces, two_people

__all__ = [
    "Batches",
    "Domains",
    "Examples",
    "Labelled",
    "PersonShift",
    "attributed_images",
    "convert_faces",
    "image_pairs",
    "images_of",
    "labelled_images",
    "save_translations",
    "two_people",
    "unpaired_images",
]
