"""Write the tables of docs/study.md and one of docs/metrics.md from results/published: no number is typed by hand.

python scripts/study.py            # writes the pages
python scripts/study.py --check    # exit status 1 where a page has other tables
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pandas as pd

from bench.analysis.groups import Group, group_folders
from bench.analysis.loading import load_group
from bench.analysis.parts import metric_of
from bench.analysis.rankings import agreement_table
from bench.analysis.tables import summarize_group
from bench.analysis.trials.crash_test import crash_table
from bench.analysis.verdicts import equal_entries, verdicts_of
from bench.figures.style import titles
from bench.report.answers import HEADINGS, measure_of, shown, value_of
from bench.store.folders import find_folders

ROOT = Path(__file__).parents[1]
PUBLISHED, DOCS = ROOT / "results" / "published", ROOT / "docs"
PHOTOGRAPHS = ("collage", "voc", "coco", "imagenet")
VALUES = {
    "box_coverage.coverage": "coverage",
    "box_coverage.min_coverage": "worst instance",
    "pointing_game.hit": "pointing",
}
PAPER = ("grad_entropy", "feature_entropy")
MARKS = {"better": "▲", "worse": "▼", "equal": "="}


@cache
def groups() -> list[tuple[Group, pd.DataFrame, pd.DataFrame]]:
    """Every published protocol with its summary and its comparisons."""
    read = [load_group(*members) for members in group_folders(find_folders(PUBLISHED))]
    return [(group, *summarize_group(group)) for group in read if group]


def photographs() -> list[tuple[Group, pd.DataFrame, pd.DataFrame]]:
    """Protocols of photographs, the default network first."""
    chosen = [each for each in groups() if each[0].dataset in PHOTOGRAPHS]
    return sorted(chosen, key=lambda each: (each[0].model, PHOTOGRAPHS.index(each[0].dataset)))


def table(heads: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Markdown table; the first `texts` columns are words, the others numbers."""
    marks = [":--"] * texts + ["--:"] * (len(heads) - texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, marks, *rows])


def number(value: float) -> str:
    """Two decimals without the zero in front, a dash where there is none."""
    return "–" if pd.isna(value) else re.sub(r"(?<![\d])0\.", ".", f"{round(value, 2) + 0.0:.2f}")


def sortable(cell: str) -> float:
    """Read a cell again, a dash as the least of all."""
    return -1.0 if cell == "–" else float(cell)


def difference(row: pd.Series) -> str:
    """Difference with its interval, signed, and the mark of its verdict."""
    low, high = number(row["difference_low"]), number(row["difference_high"])
    plus = "" if number(row["difference"]).startswith(("-", ".00")) else "+"
    return f"{plus}{number(row['difference'])} [{low}, {high}] {MARKS.get(row['verdict'], '')}".strip()


def named(group: Group) -> str:
    """Give the data set and network of a protocol."""
    return f"{group.dataset}, {group.model}"


def answers() -> str:
    """Count the samples in which a method beats every control; then a row for every question to each of them."""
    rows = []
    beaten: dict[str, list[tuple[str, int]]] = {}
    for group, _, comparisons in photographs():
        names = {entry.label: titles(members) for members in equal_entries(group) for entry in members}
        for one in verdicts_of(group, comparisons, "grad_cam"):
            question, value = HEADINGS[one.question], measure_of(group, one.metric)
            judged = one.leader is not None and one.control is not None
            ends = (one.leader, one.control) if judged else (None, None)
            best, control = (f"{shown(names, row)} {value_of(row)}" if row else "–" for row in ends)
            said = f"{len(one.winners)} of {one.judged}" if judged else "no verdict"
            rows.append([named(group), question, value, f"{one.n} ({one.images})", best, control, said])
            if judged:
                beaten.setdefault(f"{question}, {value}", []).append((named(group), len(one.winners)))
    heads = ["data, network", "question", "value", "n (images)", "best mean", "best control", "beat every control"]
    return "\n".join([*map(count, beaten, beaten.values()), "", table(heads, rows, 3)])


def count(question: str, samples: list[tuple[str, int]]) -> str:
    """Say in how many of the samples (name, methods better than every control) there is any such method."""
    names = [name for name, number in samples if number]
    return f"- {question}: in {len(names)} of {len(samples)} samples" + (f" ({'; '.join(names)})" if names else "")


def methods() -> str:
    """One table a protocol of photographs: a row a method, a column a value and layer."""
    texts = []
    for group, summary, _ in photographs():
        plain = summary[~summary["layer"].str.contains("@|^fuse")]
        layers = [layer for layer in dict.fromkeys(plain["layer"]) if layer != "-"]
        wide = plain.set_index(["method", "layer", "metric"])["mean"].to_dict()
        poor = {(row.method, row.layer) for row in plain.itertuples() if row.degenerate > 0.5}
        counts = plain.groupby("metric")["n"].max()
        rows = []
        for method in dict.fromkeys(plain["method"]):
            cells = [f"`{method}`"]
            for value in VALUES:
                for layer in layers:
                    at = (method, layer) if (method, layer, value) in wide else (method, "-")
                    cells.append("–" if at in poor and method != "uniform" else number(wide.get((*at, value))))
            rows.append(cells)
        worst = slice(1 + len(layers), 1 + 2 * len(layers))
        rows.sort(key=lambda cells, worst=worst: max(map(sortable, cells[worst])), reverse=True)
        heads = ["method", *(f"{title}, `{layer}`" for title in VALUES.values() for layer in layers)]
        sizes = ", ".join(f"{title}: n = {counts[value]}" for value, title in VALUES.items() if value in counts)
        texts += [f"**{named(group)}** ({sizes})", "", table(heads, rows), ""]
    return "\n".join(texts).strip()


def paper() -> str:
    """Compare the paper's methods with Grad-CAM and two controls by the worst instance, without degenerate maps."""
    rows, against = [], ["grad_cam", "activation_sum", "random"]
    for group, _, comparisons in photographs():
        own = comparisons[
            comparisons["method"].isin(PAPER)
            & (comparisons["metric"] == "box_coverage.min_coverage")
            & (comparisons["cases"] == "all")
            & (comparisons["verdict"] != "")
            & ~comparisons["layer"].str.contains("@|^fuse")
        ]
        for (method, layer), part in own.groupby(["method", "layer"], sort=False):
            lines = {row["against"]: row for _, row in part.iterrows()}
            cells = [difference(lines[name]) if name in lines else "–" for name in against]
            rows.append([named(group), f"`{method}`", f"`{layer}`", str(part["n"].max()), *cells])
    return table(["data, network", "method", "layer", "n", *(f"to `{name}`" for name in against)], rows, 3)


def scales() -> str:
    """Every method at another scale against itself at scale 1."""
    rows, sizes = [], ["1.5", "2", "fuse_mean"]
    for group, _, comparisons in photographs():
        own = comparisons[
            (comparisons["method"] == comparisons["against"])
            & comparisons["layer"].str.contains("@")
            & comparisons["metric"].isin(["box_coverage.coverage", "box_coverage.min_coverage"])
        ]
        for (method, metric, cases), part in own.groupby(["method", "metric", "cases"]):
            what = VALUES[metric] + ("" if cases == "all" else f", {cases}")
            lines = {row["layer"].partition("@")[2]: row for _, row in part.iterrows()}
            cells = [difference(lines[size]) if size in lines else "–" for size in sizes]
            rows.append([named(group), f"`{method}`", what, str(part["n"].max()), *cells])
    return table(["data, network", "method", "value", "n", "at 1.5", "at 2", "all three"], rows, 3)


def crash_test() -> str:
    """How many mechanisms each method passes, and which it fails."""
    (group,) = (group for group, _, _ in groups() if group.dataset == "planted")
    judged = crash_table(group).drop_duplicates(["method", "layer", "mechanism"])
    rows = []
    for (method, layer), own in judged.groupby(["method", "layer"], sort=False):
        failed = own.loc[own["overall"] == "fail", "mechanism"].tolist()
        passed = int((own["overall"] == "pass").sum())
        rows.append((passed, [f"`{method}`", str(layer), f"{passed} of {len(own)}", ", ".join(failed) or "none"]))
    rows.sort(key=lambda row: -row[0])
    return table(["method", "layer", "passes", "fails"], [cells for _, cells in rows], 2)


def agreement() -> str:
    """How far each value puts the methods in the order of the other metrics' values, and what the trial says of it."""
    pairs = []
    for group, _, _ in photographs():
        for row in agreement_table(group).itertuples():
            if metric_of(row.metric)[0] != metric_of(row.other_metric)[0] and pd.notna(row.tau):
                both = row.metric, row.other_metric
                pairs += [(group.dataset, *names, row.tau) for names in (both, both[::-1])]
    frame = pd.DataFrame(pairs, columns=["dataset", "value", "other", "tau"])
    trial, rows = trusted(), []
    for value, own in frame.groupby("value", sort=True):
        by_other = own.groupby("other")["tau"].mean().sort_values(kind="stable")
        ends = [f"`{by_other.index[i]}` ({number(by_other.iloc[i])})" for i in (-1, 0)]
        means = own.groupby("dataset")["tau"].mean()
        cells = [number(means.get(name, float("nan"))) for name in PHOTOGRAPHS]
        rows.append([f"`{value}`", *ends, trial.get(str(value), "not in the trial"), *cells])
    return table(["value", "most like (τ)", "least like (τ)", "trial: trusted for", *PHOTOGRAPHS], rows, 4)


def trusted() -> dict[str, str]:
    """Read, from the table of docs/crash-test.md, which kinds of faults each value is trusted for."""
    lines = (DOCS / "crash-test.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    start = next(i for i, row in enumerate(rows) if "trusted for" in row)
    column, size = rows[start].index("trusted for"), len(rows[start])
    return {row[0].strip("`"): row[column] for row in rows[start + 2 :] if len(row) == size}


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "study.md": {
        "answers": answers,
        "methods": methods,
        "paper": paper,
        "scales": scales,
        "crash test": crash_test,
    },
    "metrics.md": {"agreement": agreement},
}


def written(name: str, page: str) -> str:
    """Return the page of this name with every table made anew between its marks."""
    for section, make in PAGES[name].items():
        marks = f"<!-- {section} -->\n", f"<!-- end {section} -->"
        before, rest = page.split(marks[0])
        page = f"{before}{marks[0]}{make()}\n{marks[1]}{rest.split(marks[1])[1]}"
    return page


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    pages = {name: (DOCS / name).read_text(encoding="utf-8") for name in PAGES}
    made = {name: written(name, page) for name, page in pages.items()}
    if arguments.check:
        return int(made != pages)
    for name, page in made.items():
        (DOCS / name).write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
