"""Image files and pixels: decoding, writing, grids, animations, resizing, value ranges, face detection.

Images are uint8 [height, width, channels], RGB or greyscale. Networks expect float32 in [-1, 1].
"""

from common.images.converting import convert_images
from common.images.films import check_image_path
from common.images.pixels import crop_square, from_uint8, pad_to_multiple, resize_image, to_uint8
from common.images.reading import read_image
from common.images.writing import save_image

__all__ = [
    "check_image_path",
    "convert_images",
    "crop_square",
    "from_uint8",
    "pad_to_multiple",
    "read_image",
    "resize_image",
    "save_image",
    "to_uint8",
]
