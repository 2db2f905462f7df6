"""`featviz` and `python -m featviz`."""

import sys

from featviz.cli import main as main

if __name__ == "__main__":
    sys.exit(main())
