"""Results on disk -> tables, statistics, rankings, curves; loads no torch."""

import os
import sys
from contextlib import suppress

# A notebook names its own window system in MPLBACKEND, also for the commands that it starts; where that is not
# installed, matplotlib cannot be loaded. Figures for files need none.
if (_named := os.environ.pop("MPLBACKEND", None)) is not None:
    try:
        _loaded = "matplotlib" in sys.modules
        import matplotlib

        if not _loaded:
            with suppress(ValueError):
                matplotlib.rcParams["backend"] = _named
    finally:
        os.environ["MPLBACKEND"] = _named
