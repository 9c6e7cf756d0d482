"""Copy the images of finished demos to docs/gallery/, and write the small images of the README.

    python -m tools.gallery                       one image per recipe, from runs/NAME-demo, and the small images
    python -m tools.gallery gan dcgan             only the images of these recipes, and all small images
    python -m tools.gallery --runs runs/notebooks gan    from the runs that `python -m tools.notebooks --run` keeps
    python -m tools.gallery --small               only the small images, from the images in docs/gallery/

The small images are hero.png, the strip at the top, and thumbnails/NAME.jpg. They show parts of the gallery images;
`HERO` and `THUMBNAILS` say which parts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from common.images.pixels import resize_image
from common.images.reading import read_image
from common.images.writing import save_image
from common.system.files import InputError

IMAGES = {"pix2pix": "translations.png", "dcgan": "samples.png"}
IMAGES |= {"autoencoder": "reconstructions.png", "conv_autoencoder": "latents.png", "vae": "manifold.png"}
IMAGES |= {"vae_faces": "attributes.png", "adversarial_autoencoder": "styles.png", "face_swap": "swaps.png"}
IMAGES |= {"diffusion": "samples.png", "gan": "samples.png", "dcgan_faces": "samples.png", "ssgan": "classified.png"}
IMAGES |= {"cyclegan": "translations.png", "fgsm": "attacks.png", "targeted_attack": "attacks.png"}
IMAGES |= dict.fromkeys(("style_transfer", "fast_style_transfer", "deepdream"), "beside.png")
IMAGES |= dict.fromkeys(("dog_svm", "mlp", "lenet", "mobilenet"), "classified.png")
ROOT = Path(__file__).parents[1]

# The parts of the gallery images that the strip shows: left edge, top edge and side of a square, in pixels.
HERO = {
    "pix2pix": (734, 3, 258),  # two sketches above their translations
    "cyclegan": (124, 3, 258),  # two summer scenes above their winter versions
    "style_transfer": (836, 26, 300),  # the result
    "deepdream": (532, 26, 300),  # the result
    "diffusion": (182, 62, 230),  # noise that becomes digits
}
SIDE, GAP = 256, 8  # of the squares in the strip, in pixels

# The parts of the gallery images that the thumbnails show: left edge, top edge and width in pixels. The height is two
# thirds of the width.
THUMBNAILS = {
    "pix2pix": (734, 2, 388),  # three sketches above their translations
    "dog_svm": (800, 95, 590),  # the confusion matrix
    "mlp": (14, 452, 340),  # mistakes
    "lenet": (14, 88, 490),  # examples
    "mobilenet": (14, 62, 740),  # examples and mistakes
    "autoencoder": (144, 2, 344),
    "conv_autoencoder": (220, 70, 690),
    "vae": (118, 118, 694),
    "vae_faces": (148, 794, 388),  # three faces with other hair, above the same faces with another skin
    "adversarial_autoencoder": (213, 122, 344),
    "face_swap": (56, 2, 388),  # three faces above the swapped ones
    "gan": (2, 2, 346),
    "diffusion": (66, 120, 348),  # noise that becomes digits
    "dcgan": (2, 2, 346),
    "dcgan_faces": (2, 2, 586),
    "ssgan": (14, 76, 490),
    "cyclegan": (124, 2, 388),  # three summer scenes above their winter versions
    "fgsm": (0, 62, 440),
    "targeted_attack": (14, 14, 660),
    "style_transfer": (836, 26, 374),  # the result
    "fast_style_transfer": (584, 240, 192),  # a result
    "deepdream": (532, 26, 374),  # the result
}
THUMBNAIL = 390, 260  # width and height in pixels


def part(path: Path, left: int, top: int, width: int, height: int) -> np.ndarray:
    """Return a part of an image, uint8 [height, width, 3].

    Raises:
        InputError: the image is missing, or smaller than that.
    """
    image = read_image(path)[top : top + height, left : left + width]
    if image.shape[:2] != (height, width):
        raise InputError(f"{path}: smaller than the part of it that is shown; change that in tools/gallery.py")
    return image


def thumbnails(gallery: Path) -> dict[str, np.ndarray]:
    """Return a thumbnail per recipe, uint8 [260, 390, 3]. Raises InputError like `part`."""
    width, height = THUMBNAIL
    return {
        recipe: resize_image(part(gallery / f"{recipe}.jpg", left, top, across, round(across * 2 / 3)), height, width)
        for recipe, (left, top, across) in THUMBNAILS.items()
    }


def hero(gallery: Path) -> np.ndarray:
    """Return the strip of square crops, uint8 [SIDE, width, 3]. The gaps between them are white.

    Raises InputError like `part`.
    """
    squares = []
    for recipe, (left, top, side) in HERO.items():
        image = part(gallery / f"{recipe}.jpg", left, top, side, side)
        squares += [resize_image(image, SIDE, SIDE), np.full((SIDE, GAP, 3), 255, np.uint8)]
    return np.concatenate(squares[:-1], axis=1)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Copy one image per recipe and write the small images; return exit status 2 if a demo has not run."""
    parser = argparse.ArgumentParser(description="Write docs/gallery/ from the runs of the demos.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes; by default, all")
    parser.add_argument("--small", action="store_true", help="only write the small images, from docs/gallery/*.jpg")
    parser.add_argument("--runs", type=Path, default=root / "runs", help="the folder of the runs; by default, runs/")
    given, gallery = parser.parse_args(arguments), root / "docs" / "gallery"
    if unknown := [name for name in given.names if name not in IMAGES]:
        parser.error(f"no recipe {unknown[0]!r}; choose from {', '.join(IMAGES)}")
    for recipe in [] if given.small else given.names or IMAGES:
        try:
            source = read_image(given.runs / f"{recipe}-demo" / IMAGES[recipe])
            print(save_image(source, gallery / f"{recipe}.jpg"))
        except InputError as error:
            print(f"error: {error}; run `python -m recipes.{recipe}` first", file=sys.stderr)
            return 2
    try:
        print(save_image(hero(gallery), gallery / "hero.png"))
        for recipe, thumbnail in thumbnails(gallery).items():
            print(save_image(thumbnail, gallery / "thumbnails" / f"{recipe}.jpg"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
