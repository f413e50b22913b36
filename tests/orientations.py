"""What EXIF's eight orientations show of the stored pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Shown pixels from the stored ones (H, W, 3), by orientation.
SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda s: s,
    2: lambda s: s[:, ::-1],
    3: lambda s: s[::-1, ::-1],
    4: lambda s: s[::-1],
    5: lambda s: s.swapaxes(0, 1),
    6: lambda s: np.rot90(s, -1),
    7: lambda s: s[::-1, ::-1].swapaxes(0, 1),
    8: lambda s: np.rot90(s, 1),
}
