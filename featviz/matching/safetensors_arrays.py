"""Arrays of a safetensors file from outside: a path -> arrays by name and metadata, or a ValueError that says what is wrong."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from featviz.reading import check_file

# Of safetensors' types those that NumPy has, and featviz writes.
NUMPY_TYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays, copied from the file, and the metadata.

    Raises:
        ValueError: it is no safetensors file, it is damaged, or has a type that NumPy has not.
        OSError: it cannot be read.
    """
    check_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                dtype = file.get_slice(name).get_dtype()
                if dtype not in NUMPY_TYPES:
                    raise ValueError(f"array {name} is of type {dtype}")
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error
