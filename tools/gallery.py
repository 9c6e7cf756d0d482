"""Copy the pictures of finished demos into docs/gallery/: `python -m tools.gallery`."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import InputError
from common.images import read_image, write_image

PICTURES = {"pix2pix": "translations.png", "dcgan": "samples.png"}
PICTURES |= {"autoencoder": "reconstructions.png", "conv_autoencoder": "latents.png", "vae": "manifold.png"}
PICTURES |= {"vae_faces": "attributes.png", "adversarial_autoencoder": "styles.png", "face_swap": "swaps.png"}
PICTURES |= {"gan": "samples.png", "dcgan_faces": "samples.png", "ssgan": "classified.png"}
PICTURES |= {"cyclegan": "translations.png", "fgsm": "attacks.png", "targeted_attack": "attacks.png"}
PICTURES |= dict.fromkeys(("style_transfer", "fast_style_transfer", "deepdream"), "beside.png")
PICTURES |= dict.fromkeys(("dog_svm", "mlp", "lenet", "mobilenet"), "classified.png")
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Write one picture a recipe from `runs/NAME-demo`; exit status 2 where a demo has not run."""
    for recipe, picture in PICTURES.items():
        try:
            print(
                write_image(read_image(ROOT / "runs" / f"{recipe}-demo" / picture), ROOT / f"docs/gallery/{recipe}.png")
            )
        except InputError as error:
            print(f"error: {error}: run `python -m recipes.{recipe}` first", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
