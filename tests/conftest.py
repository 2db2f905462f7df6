"""What several tests need."""

import os
import tarfile
import tempfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parent.parent.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


@pytest.fixture(scope="session")
def cifar() -> Path:
    """A folder with CIFAR-10 as `train/<class>/*.jpg` and `test/<class>/*.jpg`, unpacked once per machine.

    The archive lies beside the repository; without it the test is skipped, and fails where CI=true.
    """
    if not ARCHIVE.is_file():
        reason = f"needs CIFAR-10 at {Path('..', *ARCHIVE.parts[-3:])}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    made = ARCHIVE.stat()
    folder = Path(tempfile.gettempdir()) / f"featviz-cifar10-{os.getuid()}-{made.st_size}-{int(made.st_mtime)}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as part, tarfile.open(ARCHIVE) as archive:
            archive.extractall(Path(part, "cifar"), filter="data")
            try:
                Path(part, "cifar").rename(folder)
            except OSError:  # another process was first
                assert folder.is_dir()
    return folder
