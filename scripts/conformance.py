"""How far other packages' maps are from ours under the same name: the table of docs/conformance.md.

python -m bench experiment=conformance out=results/conformance
python scripts/conformance.py results/conformance              # prints the table
python scripts/conformance.py results/conformance --write      # puts it into docs/conformance.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from bench import load_results
from bench.types import UserError

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
EQUAL = 1e-4  # largest difference of two maps, each stretched to 0..1, that rounding makes
AREA = "deletion.auc"
OURS = {
    "GradCAM": "grad_cam",
    "HiResCAM": "hirescam",
    "XGradCAM": "xgrad_cam",
    "GradCAMPlusPlus": "grad_cam_pp",
    "GradCAMpp": "grad_cam_pp",
    "LayerCAM": "layer_cam",
    "GradCAMElementWise": "grad_cam_elementwise",
    "EigenCAM": "eigen_cam",
    "EigenGradCAM": "eigen_grad_cam",
    "SegEigenCAM": "seg_eigen_cam",
    "KPCA_CAM": "kpca_cam",
    "FEM": "fem",
    "FinerCAM": "finer_cam",
    "LayerGradCam": "grad_cam",
    "LayerGradientXActivation": "hirescam",
}


def stretched(values: np.ndarray) -> np.ndarray:
    """Bring a map to 0..1 by its extremes; a constant map is zero."""
    low, high = values.min(), values.max()
    return (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)


def compared(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float | int]:
    """Compare the maps of two methods at one layer, case by case.

    Returns
    -------
    dict
        ``cases``; ``equal``, the number of cases where they differ by no more than `EQUAL`, each stretched to 0..1;
        ``difference``, the largest of all cases; ``spearman``, the median over cases where both say something;
        ``deletion``, by how much their mean area under the deletion curve is above ours, NaN where it was not run.
    """
    both = ours.merge(theirs, on="case_id", suffixes=("_ours", "_theirs"), validate="one_to_one")
    pairs = [(stretched(a), stretched(b)) for a, b in zip(both["map_ours"], both["map_theirs"], strict=True)]
    differences = [float(abs(a - b).max()) for a, b in pairs]
    order = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs if np.ptp(a) and np.ptp(b)]
    return {
        "cases": len(pairs),
        "equal": sum(difference <= EQUAL for difference in differences),
        "difference": max(differences),
        "spearman": float(np.median(order)) if order else np.nan,
        "deletion": float((both[f"{AREA}_theirs"] - both[f"{AREA}_ours"]).mean()) if AREA in ours else np.nan,
    }


def conformance(results: pd.DataFrame) -> pd.DataFrame:
    """Compare every implementation of another package in some results with ours of the same name: one row a layer."""
    rows = []
    by_map = dict(list(results.groupby(["method", "layer"])))
    for (method, layer), theirs in by_map.items():
        package, _, cam = str(method).removesuffix(")").partition("(cam=")
        if cam in OURS and (OURS[cam], layer) in by_map:
            row = {"package": package, "implementation": cam, "ours": OURS[cam], "layer": layer}
            rows.append({**row, **compared(by_map[OURS[cam], layer], theirs)})
    return pd.DataFrame(rows)


def written(table: pd.DataFrame) -> str:
    """Give the table in Markdown."""
    lines = [
        "| package | implementation | ours | layer | equal maps | largest difference | median Spearman | deletion |"
    ]
    lines.append("| :-- | :-- | :-- | :-- | --: | --: | --: | --: |")
    for row in table.to_dict("records"):
        names = f"| {row['package']} | {row['implementation']} | `{row['ours']}` | {row['layer']} "
        values = f"{row['difference']:.4f} | {row['spearman']:.3f} | {row['deletion']:+.4f}"
        lines.append(f"{names}| {row['equal']} of {row['cases']} | {values} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table, or write it between the page's marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/conformance.md")
    arguments = parser.parse_args()
    try:
        rows = conformance(load_results(arguments.results))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows.empty:
        print(f"error: {arguments.results} has no maps of another package beside ours", file=sys.stderr)
        return 2
    table = written(rows)
    if not arguments.write:
        print(table)
        return 0
    before, rest = PAGE.read_text().split("<!-- table -->\n")[0], PAGE.read_text().split("<!-- end -->\n")[1]
    PAGE.write_text(f"{before}<!-- table -->\n{table}\n<!-- end -->\n{rest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
