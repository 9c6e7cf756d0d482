"""Marks in pictures that were made by a network: a caption that can be seen, and metadata that programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.files import replacing
from common.images import check_image_size

MARKED_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")  # formats with room for the marks
IMAGE_DESCRIPTION, SOFTWARE = 270, 305  # tags of EXIF and TIFF

# The term of the IPTC for a photo of which a part was made by a trained network (its NewsCodes, Digital Source Type),
# where programs look for it.
SYNTHETIC_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP_PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SYNTHETIC_SOURCE}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def with_caption(image: np.ndarray, caption: str) -> np.ndarray:
    """Return uint8 [height, width, 3] with a small caption, white on dark, in its lower right corner.

    Letters are a 28th of the shorter side high, or 11 pixels where that is less, and smaller still where the picture
    is too narrow for the caption.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    size = max(11.0, min(height, width) / 28)
    size = max(1.0, size * min(1.0, width / (ImageFont.load_default(size).getlength(caption) + size)))
    font = ImageFont.load_default(size)
    edge = size / 2
    text_width = font.getlength(caption)
    picture = Image.fromarray(image)
    ground = Image.new("L", picture.size, 0)
    ImageDraw.Draw(ground).rectangle((width - text_width - 2 * edge, height - 1.6 * size, width, height), 150)
    picture.paste((0, 0, 0), mask=ground)
    ImageDraw.Draw(picture).text((width - edge, height - 0.8 * size), caption, "white", font, anchor="rm")
    return np.asarray(picture)


def check_marked_path(path: Path) -> None:
    """Raise InputError where `write_marked` could not write `path`."""
    if path.suffix.lower() not in MARKED_SUFFIXES:
        raise InputError(f"{path}: this format has no room for the marks; it must end in {' '.join(MARKED_SUFFIXES)}")


def write_marked(image: np.ndarray, path: Path, description: str, software: str) -> Path:
    """Write uint8 [height, width, 3] with metadata that say that a network made a part of it.

    `description` and `software` are ASCII, as EXIF is.

    PNG has the text chunks Description and Software, the other formats the EXIF or TIFF tags ImageDescription and
    Software; all have an XMP packet with the IPTC's Digital Source Type. JPEG and WebP are written at quality 95.

    Raises:
        InputError: the suffix is none of MARKED_SUFFIXES, or the image is too large for the format.
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
