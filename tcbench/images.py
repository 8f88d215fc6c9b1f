"""Read images: decode files, and turn images upright that a camera stored with an orientation tag."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tcbench.errors import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
"""Number of the EXIF tag (CIPA DC-008, "Orientation")."""

_TAGGED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
"""Entries of PIL's ``Image.info`` that may hold the tag."""


def open_image(path: Path, content: bytes | None = None) -> Image:
    """Decode an image file.

    Args:
        path: The file.
        content: Its bytes, if they have been read already.

    Returns:
        The decoded image; the first one of an animation.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an image, or cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    content = path.read_bytes() if content is None else content
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError as error:
        # PIL's own message names the buffer, not the file.
        raise ValueError(f"{path} is not an image that PIL can read") from error
    except MemoryError:
        raise  # not the file's fault
    except Exception as error:  # decoders raise nearly anything for a damaged file
        raise ValueError(f"{path} cannot be decoded: {first_line(error)}") from error
    return image


def upright(image: Image) -> Image:
    """Turn an image as its EXIF or XMP orientation says, as viewers and browsers do.

    `PIL.ImageOps.exif_transpose` does the same, but copies images that need no turn, and fails where metadata
    are damaged.

    Args:
        image: A PIL image.

    Returns:
        The image itself if it has no such tag, or none that can be read; otherwise a turned copy without it.
    """
    from PIL.Image import Transpose

    image.load()  # Pillow turns a TIFF by itself when it decodes it, and removes the tag
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow warns of damaged metadata
            orientation = image.getexif().get(_ORIENTATION)
    except (SyntaxError, ValueError, TypeError, LookupError, OSError, struct.error):
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation not in turns:
        return image
    turned = image.transpose(turns[orientation])
    for entry in _TAGGED:
        turned.info.pop(entry, None)
    return turned
