"""Copy the images of finished demos to docs/gallery/, and write the strip of images at the top of the README.

    python -m tools.gallery            copies one image per recipe from runs/NAME-demo, then writes hero.png
    python -m tools.gallery --hero     only writes hero.png, from the images in docs/gallery/

The strip shows a part of five of the images; `HERO` says which part.
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
IMAGES |= {"gan": "samples.png", "dcgan_faces": "samples.png", "ssgan": "classified.png"}
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
    "adversarial_autoencoder": (213, 122, 230),  # digits in several styles
}
SIDE, GAP = 256, 8  # of the squares in the strip, in pixels


def hero(gallery: Path) -> np.ndarray:
    """Return the strip of square crops, uint8 [SIDE, width, 3]. The gaps between them are white.

    Raises:
        InputError: an image is missing, or is smaller than its crop.
    """
    squares = []
    for recipe, (left, top, side) in HERO.items():
        path = gallery / f"{recipe}.png"
        image = read_image(path)[top : top + side, left : left + side]
        if image.shape[:2] != (side, side):
            raise InputError(f"{path}: smaller than its crop in the strip; change HERO in tools/gallery.py")
        squares += [resize_image(image, SIDE, SIDE), np.full((SIDE, GAP, 3), 255, np.uint8)]
    return np.concatenate(squares[:-1], axis=1)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Copy one image per recipe and write the strip; return exit status 2 if a demo has not run."""
    parser = argparse.ArgumentParser(description="Write docs/gallery/ from the runs of the demos.")
    parser.add_argument("--hero", action="store_true", help="only write hero.png, from the images in docs/gallery/")
    only_hero, gallery = parser.parse_args(arguments).hero, root / "docs" / "gallery"
    for recipe, image in [] if only_hero else IMAGES.items():
        try:
            print(save_image(read_image(root / "runs" / f"{recipe}-demo" / image), gallery / f"{recipe}.png"))
        except InputError as error:
            print(f"error: {error}; run `python -m recipes.{recipe}` first", file=sys.stderr)
            return 2
    try:
        print(save_image(hero(gallery), gallery / "hero.png"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
