"""Orders that depend on the baseline, in words."""

from __future__ import annotations

import pandas as pd

from bench.analysis.significance import LEAST_IMAGES
from bench.report.answers import Answer, where
from bench.report.text import row, safe
from bench.types import counted

NAMED = 3  # pairs in a sentence
HEADING = "Does the order depend on the baseline?"


def baseline_answers(table: pd.DataFrame) -> list[Answer]:
    """One answer a metric of `bench.analysis.trials.baselines.baselines_table`; none for an empty table."""
    answers = []
    for metric, rows in table.groupby("metric", sort=False):
        counts = rows["order"].value_counts().to_dict()
        pairs = [pair_of(each) for each in rows[rows["order"] == "depends"].to_dict("records")]
        whole = f"pairs with the same order by mean under every baseline: {counts.get('holds', 0)} of {len(rows)}"
        if "few images" in counts:
            text = f"no verdict: {LEAST_IMAGES} images are needed"
        elif pairs:
            more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
            text = f"the order of {'; '.join(pairs[:NAMED])}{more} depends on the baseline; {whole}"
        else:
            text = f"no two baselines are sure of opposite orders; {whole}"
        text += f" ({rows['baselines'].iloc[0]} baselines, n = {counted(rows['n'].iloc[0], 'case')})"
        measure = str(metric).replace("_", " ").replace(".", ", ")
        answers.append(Answer(HEADING, measure, text, "no" if pairs else "open"))
    return answers


def pair_of(each: dict[str, object]) -> str:
    """Both methods and the baselines that put them in the rarer order."""
    first = where(str(each["method"]), str(each["layer"]))
    second = where(str(each["other_method"]), str(each["other_layer"]))
    return f"{first} and {second} (reversed by {each['reversed_by']})"


def distances_markdown(table: pd.DataFrame) -> str:
    """Make a Markdown table of `bench.analysis.trials.baselines.baseline_distance_table`."""
    if table.empty:
        return ""
    lines = [
        "### Baselines: how far the network sees the picture move",
        "",
        row(["layer", "baseline", "distance", "n"]),
    ]
    lines.append(row([":--", ":--", "--:", "--:"]))
    for each in table.sort_values(["layer", "distance"], kind="stable").to_dict("records"):
        mean = f"{each['distance']:.3f} [{each['ci_low']:.3f}, {each['ci_high']:.3f}]"
        lines.append(row([safe(str(each["layer"])), safe(str(each["baseline"])), mean, str(each["n"])]))
    return "\n".join([*lines, "", ""])


def baselines_markdown(table: pd.DataFrame) -> str:
    """Make a Markdown table of `bench.analysis.trials.baselines.baselines_table`."""
    if table.empty:
        return ""
    heads = ["metric", "better under more", "than", "baselines", "sure", "sure of the opposite", "order", "reversed by"]
    lines = ["### Baselines", "", row(heads), row([":--"] * len(heads))]
    for each in table.to_dict("records"):
        first, second = where(each["method"], each["layer"]), where(each["other_method"], each["other_layer"])
        cells = [each["metric"], first, second, f"{each['ahead']} of {each['baselines']}", each["sure"]]
        lines.append(row([safe(str(cell)) for cell in [*cells, each["against"], each["order"], each["reversed_by"]]]))
    return "\n".join([*lines, "", ""])
