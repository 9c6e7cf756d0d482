"""Copy the images of finished demos to docs/gallery/: `python -m tools.gallery`."""

from __future__ import annotations

import sys
from pathlib import Path

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


def main() -> int:
    """Copy one image per recipe from `runs/NAME-demo`; return exit status 2 if a demo has not run."""
    for recipe, image in IMAGES.items():
        try:
            print(save_image(read_image(ROOT / "runs" / f"{recipe}-demo" / image), ROOT / f"docs/gallery/{recipe}.png"))
        except InputError as error:
            print(f"error: {error}; run `python -m recipes.{recipe}` first", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
