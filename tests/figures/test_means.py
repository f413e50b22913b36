"""Figures: they show the numbers of the tables, have a sensible size, and bear odd names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import group_of, rows_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from bench.analysis.kept_maps import native_map, overlay, read_shown, upsample
from bench.analysis.tables import breakdown_group, summarize_group
from bench.figures.curves import all_bands, curves_figure
from bench.figures.gallery import gallery_figure
from bench.figures.means import instances_figure, means_figure
from bench.figures.style import method_styles, save, wrapped
from bench.maps import heatmaps


@pytest.fixture(scope="module")
def group(finished):
    return group_of(finished)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (2, 5), (1, 3)])
def test_upsample_is_linear_between_the_centres_of_cells(size):
    values = np.random.default_rng(0).random(size)
    places = [(np.arange(n) + 0.5) * cells / n - 0.5 for n, cells in zip((21, 16), size, strict=True)]
    lines = np.array([np.interp(places[1], np.arange(size[1]), line) for line in values])
    expected = np.array([np.interp(places[0], np.arange(size[0]), line) for line in lines.T]).T
    np.testing.assert_allclose(upsample(values, 21, 16), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (2, 5), (30, 3)])
@pytest.mark.parametrize("wanted", [(168, 168), (24, 24), (5, 2), (1, 1)])
def test_upsample_is_that_of_the_benchmark(size, wanted):
    values = np.random.default_rng(0).random(size)
    expected = heatmaps.upsample(torch.from_numpy(values)[None], wanted)[0]
    np.testing.assert_allclose(upsample(values, *wanted), expected, atol=1e-12)


def test_maps_are_read_from_the_parts_of_their_cases_alone(finished, group, reads):
    """Four cases with pictures in the first of two parts; each row is the case's own."""
    shown = read_shown(group, 6)
    assert len(shown.images) == 4
    assert [path for path, _ in reads] == [group.parts[0].path] and len(group.parts) == 2
    for entry in group.entries:
        rows = rows_of(finished, entry.method, entry.layer)
        assert list(shown.rows[entry.label]) == [case for case in rows.index if case in shown.images]
        for case, row in shown.rows[entry.label].items():
            np.testing.assert_array_equal(row["map"], rows.loc[case, "map"])


def test_the_reading_benchmark_has_a_gallery(tmp_path, monkeypatch):
    """Its pictures lie in parts far apart, and every entry has a map of each."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    reading = import_module("benchmarks.reading")
    monkeypatch.setattr(reading, "METHODS", ["grad_cam", "hirescam"])
    monkeypatch.setattr(reading.store, "CHUNK", 4)
    reading.make(tmp_path, images=70)
    group = group_of(tmp_path)
    shown = read_shown(group, 60)
    chunks = [part.chunk for part in group.parts if set(part.cases) & set(shown.images)]
    assert chunks == list(range(0, 16, 2)) and len(group.entries) == 8 and len(group.cases) == 70
    assert all(native_map(row).shape == (7, 7) for rows in shown.rows.values() for row in rows.values())
    assert {len(rows) for rows in shown.rows.values()} == {8}
    assert all(not row["degenerate"] for rows in shown.rows.values() for row in rows.values())


def test_means_figure_shows_every_value(group):
    summary = summarize_group(group, resamples=50)
    figure = means_figure(group, summary)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [
        "deletion AUC ↓", "insertion AUC ↑", "pointing game ↑", "min coverage ↑", "coverage ↑", "purity ↑",
    ]  # fmt: skip
    for ax, metric in zip(panels, ("deletion.auc", "insertion.auc", "pointing_game.hit"), strict=False):
        rows = summary[summary["metric"] == metric]
        drawn = [x for line in ax.lines if line.get_linestyle() == "None" for x in line.get_xdata()]
        np.testing.assert_allclose(sorted(drawn), sorted(rows["mean"]))
        spans = sorted(tuple(segment[:, 0]) for segment in ax.collections[0].get_segments())
        np.testing.assert_allclose(spans, sorted(zip(rows["ci_low"], rows["ci_high"], strict=True)))
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels[:3] == ["grad_cam", "hirescam", "grad_entropy"] and labels[3] == "activation_sum"


def test_curves_are_the_means_of_the_rows(finished, group):
    entry = group.entries[0]
    mean, low, high = all_bands(group, ["deletion.curve"], 50)[entry.label]["deletion.curve"]
    rows = rows_of(finished, entry.method, entry.layer)
    expected = np.mean(np.stack(rows["deletion.curve"].to_list()), axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)  # curves are float32
    assert (low[1:] < mean[1:]).all() and (mean[1:] < high[1:]).all()
    figure = curves_figure(group, resamples=50)
    assert len(figure.axes) == 4  # two layers, deletion and insertion
    assert [len(ax.lines) for ax in figure.axes] == [6] * 4  # four at the layer, two controls without one


def test_curves_that_hide_each_other_are_named(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.curve": [1.0, 0.5 - 0.01 * i, 0.1]} for i in range(4)]
    lower = [row | {"deletion.curve": [1.0, 0.2, 0.1]} for row in rows]
    one_run("grad_cam", "bn2.act", rows)
    one_run("hirescam", "bn2.act", rows)
    (ax,) = curves_figure(group_of(one_run("layer_cam", "bn2.act", lower)), resamples=20).axes
    assert [text.get_text() for text in ax.texts] == ["grad_cam =\nhirescam"]


def test_instances_figure_has_both_coverages(group):
    figure = instances_figure(group, breakdown_group(group, resamples=50))
    assert [ax.get_title() for ax in figure.axes[:2]] == ["worst instance ↑", "mean over instances ↑"][::-1]
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    numbers = [int(label.split("= ")[1]) for label in labels]
    assert sum(numbers) == 23 and labels[0].startswith("1\n")


def test_styles_are_distinct_and_controls_grey(group):
    styles = method_styles(group)
    assert len({(str(s["color"]), str(s["linestyle"]), s["marker"]) for s in styles.values()}) == len(styles)
    for name in ("activation_sum", "random", "center"):
        red, green, blue = (styles[name]["color"][i : i + 2] for i in (1, 3, 5))
        assert red == green == blue


def test_gallery_tiles(group):
    shown = read_shown(group, 3)
    assert len(shown.images) == 3
    figure = gallery_figure(group, shown, "bn2.act")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert (
        texts.count("zero map:\nentropy of a flat\ngradient is 0") == 3
    )  # grad_entropy at this layer, with its reason
    for name in ("image", "grad_cam", "hirescam", "grad_entropy", "activation_sum"):
        assert name in texts
    assert gallery_figure(group, shown, "no such layer") is None
    boxes = sum(len(row["boxes"]) // 4 for row in shown.rows["grad_cam@bn2.act"].values())
    others = sum(len(row["other_boxes"]) // 4 for row in shown.rows["grad_cam@bn2.act"].values())
    assert len(figure.axes[0].patches) == 2 * (boxes + others)  # each with an outline


def test_gallery_of_many_methods_stands_in_blocks(results):
    methods = tuple((f"method_{i:02d}", "bn2.act") for i in range(23))
    group = group_of(results(methods=methods, cases=6, gallery=6))
    figure = gallery_figure(group, read_shown(group, 6), "bn2.act")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("image") == 3 and all(texts.count(method) == 1 for method, _ in methods)
    assert figure.get_size_inches()[0] < 13


def test_gallery_shows_several_instances_first_and_survives_a_damaged_picture(results):
    group = group_of(results())
    several = set(group.cases.loc[group.cases["n_instances"] > 1, "case_id"])
    assert set(read_shown(group, 2).images) <= several
    for path in group.folders[0].images.glob("*.png"):
        path.write_bytes(b"\x89PNG no")
    assert read_shown(group, 2).images == {}
    assert gallery_figure(group, read_shown(group, 2), "bn2.act") is None


def test_native_map_has_its_shape():
    np.testing.assert_array_equal(native_map({"map": list(range(6)), "map_shape": [2, 3]}), [[0, 1, 2], [3, 4, 5]])
    assert native_map({"map": None, "map_shape": None}) is None


def test_overlay_marks_the_hot_place():
    heat = np.zeros((4, 4))
    heat[1, 2] = 5.0
    drawn = overlay(np.full((4, 4, 3), 0.5), heat)
    assert drawn.shape == (4, 4, 3) and 0 <= drawn.min() and drawn.max() <= 1
    assert drawn[1, 2, 0] - drawn[1, 2, 2] > 0.2 > drawn[0, 0, 0] - drawn[0, 0, 2]  # hot is red, cold is not


def test_saved_figures_have_a_sensible_size(group, tmp_path):
    shown = read_shown(group, 8)
    summary, parts = summarize_group(group, resamples=50), breakdown_group(group, resamples=50)
    makers = {
        "means": means_figure(group, summary),
        "curves": curves_figure(group, resamples=50),
        "instances": instances_figure(group, parts),
        "gallery": gallery_figure(group, shown, "bn2.act"),
    }
    for name, figure in makers.items():
        save(figure, tmp_path / name, ["png"], 300)
        with Image.open(tmp_path / f"{name}.png") as image:
            width, height = image.size
            pixels = np.asarray(image.convert("L"))
        assert 500 < width < 3000 and 350 < height < 3000
        assert pixels.std() > 5  # not an empty page
    assert len(list(tmp_path.glob("*"))) == len(makers)  # and no temporary file is left


def test_names_with_special_characters(results):
    methods = (("grad_cam", "bn2.act"), ("a$b$_{c}<i>", "bn2.act"), ("grad_cam", "x[0]/y"))
    root = results(methods=methods, dataset="dä ta/[bold]", model="m$1$")
    group = group_of(root)
    summary = summarize_group(group, resamples=20)
    figure = means_figure(group, summary)
    assert "a$b$_{c}<i>" in [text.get_text() for text in figure.axes[0].get_yticklabels()]
    others = [curves_figure(group, resamples=20), gallery_figure(group, read_shown(group, 2), "x[0]/y")]
    for drawn in (figure, *others):
        FigureCanvasAgg(drawn).draw()


def test_wrapped_cuts_at_underscores():
    assert wrapped("grad_cam") == "grad_cam"
    assert wrapped("grad_entropy_magnitude") == "grad_entropy_\nmagnitude"
    assert wrapped("grad_entropy(estimator=value, bins=3)") == "grad_entropy\n(estimator=value,\nbins=3)"
