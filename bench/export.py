"""``python -m bench.export DIR --out OUT``: kept maps as files, for other programs and for ``method=external``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from bench.analysis.reading import load_results
from bench.cli import interrupted
from bench.store.files import safe_name
from bench.types import UserError, counted, printable

KINDS = ("npy", "npz", "png")


def export_maps(results: str | Path, out: str | Path, kind: str = "npy") -> dict[str, int]:
    """Write every kept map of some results to a file of its own.

    A map is written as it was kept, at its layer's size and after the ReLU; it covers the network's input, so
    ``method.external.frame=input`` reads it. The file of case ``000012/cat`` is ``000012/cat.npy`` in the folder
    ``<out>/<dataset>/<model>-<protocol>/<method>_<layer>``.

    Parameters
    ----------
    results : path
        As given to ``out=``.
    out : path
    kind : {"npy", "npz", "png"}
        float32 arrays, plain or compressed; or pictures of 16-bit grey, each map divided by its largest value, which
        changes no metric that looks at order or shares, but rounds to a 65,535th.

    Returns
    -------
    dict
        Number of maps by folder.

    Raises
    ------
    bench.types.UserError
        There are no results, no kept maps in them, or an unknown `kind`.
    """
    if kind not in KINDS:
        raise UserError(f"--maps={kind} is unknown; it takes {', '.join(KINDS)}")
    written: Counter[str] = Counter()
    for row in load_results(results).itertuples():
        path = PurePosixPath(row.case_id)
        if row.map is None or path.is_absolute() or ".." in path.parts:
            continue
        place = Path(out) / safe_name(row.dataset) / safe_name(f"{row.model}-{row.protocol}")
        folder = place / safe_name(row.method if row.layer == "-" else f"{row.method}@{row.layer}")
        if kind == "png" and row.map.ndim != 2:
            raise UserError(f"--maps=png is for maps of pictures, not of volumes; take npy or npz ({row.case_id})")
        write_map(folder / f"{path}.{kind}", row.map)
        written[str(folder)] += 1
    if not written:
        raise UserError(f"no maps were kept under {results}; run again with save_maps=all")
    return dict(written)


def write_map(path: Path, values: np.ndarray) -> None:
    """Write a map in the format of the path's suffix."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, values)
        elif path.suffix == ".npz":
            np.savez_compressed(path, map=values)
        else:
            scaled = np.nan_to_num(np.clip(values, 0, None) / max(values.max(), np.finfo(np.float32).tiny))
            Image.fromarray(np.round(scaled * 65535).astype(np.uint16)).save(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and export; returns the exit status, 2 for a mistake of the user's."""
    about = "Write the maps that a run kept as files that other programs read; method=external reads them again."
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=about)
    parser.add_argument("folder", type=Path, metavar="DIR", help="results folder, as given to out=")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the maps")
    parser.add_argument("--maps", default="npy", choices=KINDS, help="format of a map's file")
    options = parser.parse_args(arguments)
    try:
        for folder, number in export_maps(options.folder, options.out, options.maps).items():
            print(printable(f"{counted(number, 'map')} in {folder}"), flush=True)
    except UserError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as with | head; the maps are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return interrupted("stopped; the same command writes all maps again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
