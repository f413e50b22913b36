"""Make results/published: results of this program to compare with, computed by the commands that its README.md lists.

    python scripts/publish.py scenes              # the embedded scenes; some hours
    python scripts/publish.py crash_test          # networks whose evidence is known exactly; minutes
    python scripts/publish.py samples             # VOC, COCO and ImageNet beside the checkout, ids and numbers alone
    python scripts/publish.py scenes --estimate   # passes, time and disk of each command, nothing is kept
    python scripts/publish.py samples --limit 16 --out /tmp/trial

A part can be stopped and started again: finished cases are kept. Whatever is there already is not computed again, so
after a new method has been added the same command computes that method alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.__main__ import compute, share
from bench.config import GIVEN_TO_METHOD, bind_all, check_settings, compose_config, plain
from bench.options import conf_node, names
from bench.runs.cost import own_passes
from bench.runs.provenance import git_commit, versions
from bench.store.files import read_json, write_json, write_text
from bench.store.folders import find_folders
from bench.types import UserError

ROOT = Path(__file__).parents[1]
OUT = Path("results/published")
RECORD = "commands.json"
PARTS = ("scenes", "crash_test", "samples")
LARGEST = 20e6  # bytes of all that is committed
DATA = "../shared/data"
SHAPE = (1280, 7, 7)  # of the larger of the two layers
CHEAP = 0  # passes of its own, an image, up to which a method is asked again by metrics
# Defined at one of the layers only, or for other networks, or in an extra.
APART = (
    "cam",
    "lift_cam",
    "guided_backprop",
    "guided_grad_cam",
    "attention_rollout",
    "chefer_cam",
    "ag_cam",
    "legrad",
    "lrp",
)
MASKING = ("ablation_cam", "poly_cam", "rise", "score_cam")  # over a thousand passes an image
AFFORDABLE = 7500  # passes of its own, an image: 48 scenes at 10 ms are an hour

LOCALIZATION = ["box_coverage", "pointing_game", "energy_pointing_game"]
# Computed once for each case or not at all, or with up to 54 passes a map.
OTHER = [
    "deletion", "insertion", "average_drop", "average_drop_in_deletion", "road", "symmetric_relevance_gain", "irof",
    "saco", "single_deletion", "sensitivity_n", "infidelity",
    "faithfulness_correlation", "top_k_pointing", "relevance", "max_box_acc", "pxap", "mask_iou", "instance_boxes",
    "gt_known", "sparseness", "complexity",
]  # fmt: skip
FIRST = ["relevance", "sparseness", "complexity", "class_sensitivity"]  # without perturbed pictures
AGAIN = [
    "class_sensitivity", "random_logit", "cascading_randomization", "independent_randomization", "efficient_mprt",
    "max_sensitivity", "avg_sensitivity", "relative_stability", "adcc", "coherency",
]  # fmt: skip
LEFT_OUT = {
    "is_cam, ss_cam": "over an hour: thousands of masked pictures a scene and layer",
    "guided_backprop, guided_grad_cam": "have a rule for nn.ReLU alone, which this network does not use",
    "attention_rollout, chefer_cam, ag_cam, legrad": "need attention, which this network does not have",
    "lrp": "needs the extra lrp, and most of a minute a picture on two cores",
    "external, captum, pytorch_grad_cam, torchcam": "maps of other programs; docs/conformance.md compares them",
    "performance_information_curve": "writes picture files for seconds a map",
    "baseline_distance": "is of a baseline, not of a map: experiment=baselines",
    "deletion_insertion_combined": "follows from deletion and insertion",
    "monotonicity, pixel_flipping": "the pictures of deletion, counted in another way",
    "bottom_up_randomization, smooth_mprt, local_lipschitz, arcc": "more passes of what others here measure",
    "gt_known_mean, gt_known_otsu, max_box_acc_bicubic": "variants of metrics that are here",
    "metrics of perturbed pictures beyond deletion and insertion, for methods beyond the main ten": "some 100 passes "
    "for every map",
    "deletion and insertion, for methods with passes of their own": "their maps are the larger part of it",
    "metrics that ask again, for dff and methods with passes of their own": "each asks 1 to 10 times for every map",
    "grid_pointing_game, planted_truth": "need mosaics, or a known truth (the crash test has it)",
}
SAMPLES = {
    "voc": ["dataset=voc", f"dataset.root={DATA}/voc/VOCdevkit", "dataset.years=[2007,2012]", "dataset.split=sample"],
    "coco": ["dataset=coco", f"dataset.root={DATA}/coco", "dataset.split=sample2017"],
    "imagenet": ["dataset=imagenet", f"dataset.root={DATA}/imagenet_val"],
}
NETWORKS = ("efficientnet_lite1", "efficientnet_lite2")  # beside the default, efficientnet_lite0
ON_SAMPLES = [
    "grad_cam", "hirescam", "grad_cam_pp", "layer_cam", "grad_cam_elementwise", "eigen_cam", "eigen_grad_cam", "fem",
    "grad_entropy", "grad_entropy_magnitude", "feature_entropy", "feature_entropy_magnitude", "consensus_cam",
    "refine_cam", "activation_sum", "random", "center", "edges", "uniform",
]  # fmt: skip
AT_SCALES = ["grad_cam", "grad_cam_pp", "layer_cam", "feature_entropy", "activation_sum"]
MAIN_TEN = [
    "grad_cam", "layer_cam", "grad_entropy", "feature_entropy", "activation_sum", "random", "center", "edges",
    "hirescam", "grad_cam_pp",
]  # fmt: skip


def commands(part: str) -> list[list[str]]:
    """List the overrides of every run of a part."""
    if part == "crash_test":
        return [["experiment=crash_test", "gallery.cases=0"]]
    if part == "scenes":
        cheap, costly = affordable_methods()
        kept = ["gallery.cases=2", "workers=2"]
        at_last = "method=[cam,lift_cam]"  # they are defined at the last layer only
        first = [*LOCALIZATION, *FIRST]
        other = [name for name in OTHER if name not in ("deletion", "insertion", *FIRST)]
        again = [name for name in AGAIN if name not in FIRST]
        alone = [name for name in first if name not in AGAIN]
        return [
            [listed("method", cheap), listed("metric", first), *kept],
            [at_last, listed("metric", first), "layer=bn2.act", *kept],
            [listed("method", cheap), "metric=[deletion,insertion]", *kept],
            [listed("method", [name for name in costly if name not in MASKING]), listed("metric", alone), *kept],
            [listed("method", MAIN_TEN), listed("metric", other), *kept],
            [at_last, listed("metric", ["deletion", "insertion", *other]), "layer=bn2.act", *kept],
            [listed("method", [name for name in cheap if name != "dff"]), listed("metric", again), *kept],
            [listed("method", [name for name in costly if name in MASKING]), listed("metric", alone), *kept],
        ]
    same = [listed("metric", LOCALIZATION), "save_maps=none", "gallery.cases=0", "workers=2"]
    runs = [[listed("method", ON_SAMPLES), *data, *same] for data in SAMPLES.values()]
    at_scales = [listed("method", AT_SCALES), "layer=bn2.act", "scale=[1,1.5,2]", "fuse=mean"]
    runs += [[*at_scales, *data, *same] for data in SAMPLES.values()]
    larger = [[listed("method", ON_SAMPLES), f"model={name}"] for name in NETWORKS]
    return runs + [[*words, *data, *same] for words in larger for data in SAMPLES.values()]


def affordable_methods() -> tuple[list[str], list[str]]:
    """Names of the methods that take part, with few passes of their own and with many."""
    nodes = {name: conf_node("method", name) for name in names("method")}
    own = [
        name for name, node in nodes.items() if "peers" not in str(node["_target_"]) and "folder" not in node["about"]
    ]
    passes = {
        method.name: sum(own_passes(method, SHAPE))
        for method in bind_all(compose_config([listed("method", own)]).method, GIVEN_TO_METHOD)
    }
    own = [name for name in own if name not in APART]
    cheap = [name for name in own if passes[name] <= CHEAP]
    return cheap, [name for name in own if CHEAP < passes[name] <= AFFORDABLE]


def listed(key: str, values: Sequence[str]) -> str:
    """Override that names several members of a group."""
    return f"{key}=[{','.join(values)}]"


def compute_all(part: str, out: Path, more: Sequence[str]) -> None:
    """Run a part's commands, and note what each took and where."""
    for words in commands(part):
        words = [*words, *more, f"out={out}"]
        command = ["python", "-m", "bench", *words]
        print(shlex.join(command), flush=True)
        settings: dict[str, Any] = {**plain(compose_config(words)), "command": command[1:]}
        check_settings(settings)
        began, before = time.perf_counter(), set(out.rglob("part-*"))
        if settings["workers"] > 1 and not settings["estimate"]:
            share(settings)
        outcome = compute(settings)
        seconds = time.perf_counter() - began
        print(f"{seconds:,.0f} s", flush=True)
        if outcome.folder is not None and set(out.rglob("part-*")) != before:
            note(part, out, shlex.join(command), seconds)


def note(part: str, out: Path, command: str, seconds: float) -> None:
    """Keep what a command took; a command that goes on adds to what it took before."""
    record = read_json(out / RECORD)
    before = record.get(command, {}).get("seconds", 0)
    about = {"part": part, "seconds": round(before + seconds, 1), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    machine = f"{processor()}, {platform.system()} {platform.machine()}"
    write_json(out / RECORD, record | {command: about | {"machine": machine, "commit": git_commit() or ""}})


def processor() -> str:
    """Name of the processor, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    model = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(model)} x {model[0]}" if model else "unknown processor"


def digest(folder: Path) -> str:
    """Hash of the names and bytes of a folder's parts: 16 hex digits."""
    value = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("part-*.parquet")):
        value.update(path.name.encode() + path.read_bytes())
    return value.hexdigest()


def committed(out: Path) -> int:
    """Bytes below a folder that git keeps: results, pictures, the record and the page that says what they are."""
    folders = [folder.path for folder in find_folders(out)]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in (*files, *(p for p in (out / RECORD, out / "README.md") if p.is_file())))


def write_readme(out: Path) -> None:
    """Say in README.md which results lie here, and which command on which machine made them."""
    record = read_json(out / RECORD)
    lines = [
        "# Published results",
        "",
        "Written by `scripts/publish.py`; do not edit. Compare a method of yours with these results, or read them as",
        "any [results folder](../README.md):",
        "",
        "    python -m bench method=NAME limit=24 against=results/published",
        "    python -m bench.report results/published --leaderboard",
        "",
        "Results of pictures that may not be passed on (VOC, COCO, ImageNet) hold ids, boxes and numbers, no pictures",
        "and no maps. `python scripts/check_published.py` computes a seeded subset again.",
        "",
        "| data set | network | protocol | parts | MB | hash of the parts |",
        "| :-- | :-- | :-- | --: | --: | :-- |",
    ]
    for folder in find_folders(out):
        size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file()) / 1e6
        protocol, parts = folder.protocol, len(folder.parts)
        row = [protocol["dataset"], protocol["model"], f"`{protocol['key']}`", str(parts), f"{size:.1f}"]
        lines.append(f"| {' | '.join([*row, f'`{digest(folder.path)}`'])} |")
    lines += ["", f"Together {committed(out) / 1e6:.1f} MB.", "", "## Commands", ""]
    for command, about in record.items():
        lines += [f"{about['part']}: {about['seconds']:,.0f} s on {about['machine']}, {about['date']}, commit "
                  f"`{short(about['commit'])}`", "", f"    {command}", ""]  # fmt: skip
    lines += ["Versions: " + ", ".join(f"{name} {text}" for name, text in versions().items()), "", "## Left out", ""]
    lines += [f"- {name}: {reason}" for name, reason in LEFT_OUT.items()]
    write_text(out / "README.md", "\n".join(lines) + "\n")


def short(commit: str) -> str:
    """Shorten a commit's hash to ten digits; keep the + of a checkout with changes."""
    return commit[:10] + "+" * commit.endswith("+") or "unknown"


def main() -> int:
    """Read the command line, run the parts, write README.md; exit status 2 where they are too large."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none writes README.md")
    parser.add_argument("--estimate", action="store_true", help="only say what each command costs")
    parser.add_argument("--limit", type=int, help="only so many cases, for a trial in another --out")
    parser.add_argument("--out", type=Path, default=OUT, help="another folder than results/published")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"{unknown[0]} is no part; there are {', '.join(PARTS)}")
    more = ["estimate=true"] if options.estimate else []
    more += [] if options.limit is None else [f"limit={options.limit}"]
    try:
        for part in options.parts:
            compute_all(part, options.out, more)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.estimate:
        return 0
    write_readme(options.out)
    size = committed(options.out)
    print(json.dumps({"bytes": size, "folders": len(find_folders(options.out))}))
    if size > LARGEST:
        print(f"error: {size / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB are committed", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
