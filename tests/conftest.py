"""What several tests need."""

import os
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch

ARCHIVE = Path(__file__).parent.parent.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"


WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))  # workers that share cores must not each claim all


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", default="cuda", help="device of the tests marked cuda; cpu tries the tests themselves")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked cuda are left out on a machine without a GPU."""
    if config.getoption("--gpu").startswith("cuda") and not torch.cuda.is_available():
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> torch.device:
    """The device of the tests marked cuda."""
    return torch.device(request.config.getoption("--gpu"))


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
            # Python before 3.11.4 has no filters.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(Path(part, "cifar"))
            try:
                Path(part, "cifar").rename(folder)
            except OSError:  # another process was first
                assert folder.is_dir()
    return folder
