"""Load untrusted .keras files: no code in them is run, and the sizes that they claim are checked first."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path

from common.system.files import InputError, first_line
from common.system.lazy import keras

SMALL_ARCHIVE = 2**26  # unpacked bytes that are always allowed
ARCHIVE_EXPANSION = 10  # maximum unpacked bytes per byte of the file; Keras does not compress, but other tools may


def load_keras_file(path: Path) -> keras.Model:
    """Return the network in a .keras file.

    Keras's safe mode rejects Lambda layers and everything else that would run code. But Keras allocates memory for all
    weights before it reads them. Therefore, the network is first built without allocating weights, to check their size.

    Raises:
        InputError: the file does not exist or cannot be loaded.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; expected a .keras file")
    try:
        with zipfile.ZipFile(path) as archive, keras.StatelessScope(initialize_variables=False):
            most = max(SMALL_ARCHIVE, ARCHIVE_EXPANSION * path.stat().st_size)
            if sum(member.file_size for member in archive.infolist()) > most:
                raise ValueError(f"it claims more data than its {path.stat().st_size} bytes can hold")
            claimed = keras.saving.deserialize_keras_object(json.loads(archive.read("config.json")), safe_mode=True)
            if not isinstance(claimed, keras.Model) or not getattr(claimed, "inputs", None):
                raise ValueError("it is not a network with inputs")
            size = sum(8 * math.prod(each.shape) for each in claimed.variables)  # in bytes, at 8 bytes per value
        if size > most:
            raise ValueError(f"it claims weights of {size} bytes, more than its {path.stat().st_size} bytes can hold")
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file can fail in many ways
        if unknown := re.search(r"Could not locate class '(\w+)'", str(error)):
            raise InputError(
                f"{path}: cannot be loaded (its layer {unknown[1]} is not part of Keras); decorate the class with "
                "keras.saving.register_keras_serializable(), and load the network in a program that imports this class"
            ) from None
        raise InputError(f"{path}: cannot be loaded ({first_line(error)}); train again, or restore the file") from None
