"""Label generated images with a visible caption and machine-readable metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.images.writing import check_image_size
from common.system.files import InputError, replacing

MARKED_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")  # formats that can store the metadata
IMAGE_DESCRIPTION, SOFTWARE = 270, 305  # EXIF and TIFF tags

# The IPTC term for a photo with a generated part (NewsCodes, Digital Source Type).
SYNTHETIC_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SYNTHETIC_SOURCE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """Return uint8 [height, width, 3] with a small white caption on a dark background in the lower right corner.

    The font size is 1/28 of the shorter side, but at least 11 pixels. It is reduced if the caption would be wider than
    the image.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    size = max(11.0, min(height, width) / 28)
    size = max(1.0, size * min(1.0, width / (ImageFont.load_default(size).getlength(caption) + size)))
    font = ImageFont.load_default(size)
    edge = size / 2
    text_width = font.getlength(caption)
    captioned = Image.fromarray(image)
    ground = Image.new("L", captioned.size, 0)
    ImageDraw.Draw(ground).rectangle((width - text_width - 2 * edge, height - 1.6 * size, width, height), 150)
    captioned.paste((0, 0, 0), mask=ground)
    ImageDraw.Draw(captioned).text((width - edge, height - 0.8 * size), caption, "white", font, anchor="rm")
    return np.asarray(captioned)


def check_marked_path(path: Path) -> None:
    """Raise InputError if `write_marked` cannot write `path`."""
    if path.suffix.lower() not in MARKED_SUFFIXES:
        raise InputError(f"{path}: this format cannot store metadata; the name must end in {' '.join(MARKED_SUFFIXES)}")


def write_marked(image: np.ndarray, path: Path, description: str, software: str) -> Path:
    """Write uint8 [height, width, 3] with metadata that marks it as partly generated.

    A PNG gets the text chunks Description and Software. Other formats get the EXIF or TIFF tags ImageDescription and
    Software. All formats get an XMP packet with the IPTC Digital Source Type. JPEG and WebP are written at quality 95.
    `description` and `software` must be ASCII.

    Raises:
        InputError: the suffix is not one of MARKED_SUFFIXES, or the image is too large for the format.
    """
    from PIL import Image, PngImagePlugin, TiffImagePlugin

    check_marked_path(path)
    check_image_size(path, *image.shape[:2])
    suffix = path.suffix.lower()
    options: dict[str, Any] = {}
    xmp = XMP_PACKET.encode()
    tags = {IMAGE_DESCRIPTION: description, SOFTWARE: software}
    if suffix == ".png":
        options["pnginfo"] = chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("Description", description)
        chunks.add_itxt("Software", software)
        chunks.add_itxt("XML:com.adobe.xmp", XMP_PACKET)
    elif suffix in (".tif", ".tiff"):
        options["tiffinfo"] = directory = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in (tags | {700: xmp}).items():
            directory[tag] = value
    else:
        exif = Image.Exif()
        for tag, value in tags.items():
            exif[tag] = value
        options |= {"exif": exif, "xmp": xmp, "quality": 95}
    with replacing(path) as draft:
        Image.fromarray(image).save(draft, **options)
    return path
