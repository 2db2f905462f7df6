"""Input that runs code where it is unpickled or handed to a program: it makes a file, by which it is found out."""

import io
import pickle
import zipfile

import numpy as np

CANARY = "the-fuzzer-ran-code"  # the file that hostile pickles and programs try to make, in the current folder


class Hostile:
    """Makes the canary where it is unpickled."""

    def __reduce__(self) -> tuple:
        return exec, (f"open({CANARY!r}, 'w').close()",)


EPS = f"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
({CANARY}) (w) file closefile showpage
%%EOF
""".encode()  # Pillow would hand it to Ghostscript, a program


def hostile_torch_file() -> bytes:
    """As of `torch.save(Hostile())`."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(), 2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return made.getvalue()


def hostile_npz() -> bytes:
    """As of `numpy.savez(x=numpy.array([Hostile()]))`."""
    array, made = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, np.array([Hostile()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("x.npy", array.getvalue())
    return made.getvalue()
