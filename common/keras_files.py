"""Loading .keras files, which may come from strangers: no code of theirs runs, and none claims more than it holds."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

from common.errors import InputError, first_line
from common.lazy import keras

SMALL_ARCHIVE = 2**26  # bytes, unpacked, that any file may have
ARCHIVE_EXPANSION = 10  # bytes per byte of a larger file; Keras does not compress, but somebody may have


def load_keras_file(path: Path) -> keras.Model:
    """Return the network that a .keras file holds.

    Keras' safe mode refuses Lambda layers and whatever else would run code. It allocates all weights before it reads
    them, so the network is built without weights first: those that it claims must fit into the file.

    Raises:
        InputError: there is no such file, or it cannot be loaded.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; expected a .keras file")
    try:
        with zipfile.ZipFile(path) as archive, keras.StatelessScope(initialize_variables=False):
            most = max(SMALL_ARCHIVE, ARCHIVE_EXPANSION * path.stat().st_size)
            if sum(member.file_size for member in archive.infolist()) > most:
                raise ValueError(f"it claims more than its {path.stat().st_size} bytes can hold")
            claimed = keras.saving.deserialize_keras_object(json.loads(archive.read("config.json")), safe_mode=True)
            if not isinstance(claimed, keras.Model) or not getattr(claimed, "inputs", None):
                raise ValueError("no network with inputs")
            size = sum(8 * math.prod(each.shape) for each in claimed.variables)  # bytes, of the widest type
        if size > most:
            raise ValueError(f"it claims weights of {size} bytes, more than its {path.stat().st_size} bytes can hold")
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"{path}: cannot be loaded ({first_line(error)}); train again, or restore the file") from None
