"""Figures: they show the numbers of the tables, have a sensible size, and bear odd names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import group_of, rows_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from bench.analysis.kept_maps import native_map, overlay, read_shown, upsample
from bench.analysis.tables import breakdown_group, summarize_group
from bench.analysis.verdicts import equal_entries, question_columns
from bench.figures.curves import all_bands, curves_figure
from bench.figures.depth import depth_figure
from bench.figures.forest import forest_figure
from bench.figures.gallery import gallery_figure
from bench.figures.instances import instances_figure
from bench.figures.style import NARROW, WIDE, save, style_of, titles, wrapped
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
    monkeypatch.setattr(reading.parts, "CHUNK", 4)
    reading.make(tmp_path, images=70)
    group = group_of(tmp_path)
    shown = read_shown(group, 60)
    chunks = [part.chunk for part in group.parts if set(part.cases) & set(shown.images)]
    assert chunks == list(range(0, 16, 2)) and len(group.entries) == 8 and len(group.cases) == 70
    assert all(native_map(row).shape == (7, 7) for rows in shown.rows.values() for row in rows.values())
    assert {len(rows) for rows in shown.rows.values()} == {8}
    assert all(not row["degenerate"] for rows in shown.rows.values() for row in rows.values())


@pytest.fixture(scope="module")
def tables(group):
    summary, comparisons = summarize_group(group, resamples=50)
    return {"summary": summary, "comparisons": comparisons, "breakdown": breakdown_group(group, resamples=50)}


@pytest.fixture(scope="module")
def sets(group):
    return equal_entries(group)


def figures(group, tables, sets, width, layer="bn2.act"):
    """All figures of a group by name, those that it has."""
    columns = question_columns(group, set(tables["summary"]["metric"]))
    made = {
        "forest": forest_figure(group, tables["comparisons"], sets, columns, layer, "grad_cam", width),
        "instances": instances_figure(group, tables["breakdown"], sets, layer, "grad_cam", width),
        "depth": depth_figure(group, tables["summary"], sets, columns, "grad_cam", width),
        "curves": curves_figure(group, sets, layer, width, resamples=30),
    }
    return {name: figure for name, figure in made.items() if figure}


def test_the_forest_shows_the_differences_of_the_table(group, tables, sets):
    """Points and intervals of the comparisons, turned so that better lies to the right."""
    columns = question_columns(group, set(tables["summary"]["metric"]))
    figure = forest_figure(group, tables["comparisons"], sets, columns, "bn2.act", "grad_cam")
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes] == [
        "coverage",
        "min coverage",
        "deletion AUC",
    ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "Grad-CAM",
        "HiResCAM",
    ]  # one says nothing
    table = tables["comparisons"]
    for ax, metric, sign in zip(
        figure.axes, ("box_coverage.coverage", "box_coverage.min_coverage", "deletion.auc"), (1, 1, -1), strict=True
    ):
        own = table[(table["metric"] == metric) & (table["cases"] == "all") & (table["layer"] == "bn2.act")]
        expected = [
            sign * own.loc[(own["method"] == method) & (own["against"] == against), "difference"].item()
            for method, against in (("grad_cam", "random"), ("hirescam", "random"), ("hirescam", "grad_cam"))
        ]
        drawn = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "None"]
        np.testing.assert_allclose(sorted(drawn), sorted(expected))


def test_curves_are_the_means_of_the_rows(finished, group, sets):
    entry = group.entries[0]
    mean, low, high = all_bands(group, ["deletion.curve"], 50, [entry])[entry.label]["deletion.curve"]
    rows = rows_of(finished, entry.method, entry.layer)
    expected = np.mean(np.stack(rows["deletion.curve"].to_list()), axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)  # curves are float32
    assert (low[1:] < mean[1:]).all() and (mean[1:] < high[1:]).all()
    figure = curves_figure(group, sets, "blocks.6.0.bn2.act", resamples=50)
    assert len(figure.axes) == 6  # three methods, deletion and insertion
    for ax in figure.axes:
        assert len(ax.lines) == 4  # two others grey, random dashed, its own
        colours = {str(line.get_color()) for line in ax.lines}
        assert {"#cccccc", "#555555"} < colours and len(colours) == 3


def test_bins_of_few_cases_are_hidden(results):
    group = group_of(results(cases=40))
    table = breakdown_group(group, resamples=50)
    figure = instances_figure(group, table, equal_entries(group), "bn2.act", "grad_cam")
    assert [ax.get_title() for ax in figure.axes] == ["coverage, mean over objects", "worst-shown object"]
    own = table[(table["by"] == "n_instances") & (table["metric"] == "box_coverage.coverage")]
    numbers = own.groupby("bin")["n"].max()
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert [int(label.split("= ")[1]) for label in labels] == [n for n in numbers if n >= 10] and (numbers < 10).any()
    few = group_of(results("few", cases=12))
    assert instances_figure(few, breakdown_group(few, resamples=20), equal_entries(few), "bn2.act", "grad_cam") is None


def test_many_layers_are_a_heat_map_with_the_values_of_the_table(results):
    methods = tuple((m, f"features.{i}") for i in range(8) for m in ("grad_cam", "layer_cam"))
    group = group_of(results(methods=(*methods, ("random", "-")), cases=24))
    summary = summarize_group(group, resamples=20)[0]
    columns = question_columns(group, set(summary["metric"]))
    figure = depth_figure(group, summary, equal_entries(group), columns, "grad_cam")
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (2, 8)
    row = summary[(summary["metric"] == columns[0].metric) & (summary["method"] == "layer_cam")].set_index("layer")
    np.testing.assert_allclose(image[1], [row.loc[layer, "mean"] for layer in group.layers])
    assert depth_figure(group_of(results("one", methods=(("grad_cam", "bn2.act"),))), summary, [], columns, "x") is None


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_figures_fit_their_width_and_no_text_is_small(group, tables, sets, width, tmp_path):
    made = figures(group, tables, sets, width)
    assert {"forest", "depth", "curves"} <= set(made)
    for name, figure in made.items():
        save(figure, tmp_path / name, ["svg"], 100)
        assert figure.get_size_inches()[0] == width and figure.get_size_inches()[1] < 9
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= 7
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # puts the labels where the ticks leave room
        renderer = canvas.get_renderer()
        for ax in figure.axes:
            for title in [t for t in (ax.title, ax.xaxis.label, ax.yaxis.label) if t.get_text()]:
                box = title.get_window_extent(renderer)
                assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, (name, title.get_text())


def test_thirty_methods_fit(results):
    methods = tuple((f"method_number_{i:02d}", "bn2.act") for i in range(30))
    group = group_of(results(methods=(*methods, ("grad_cam", "bn2.act"), ("random", "-")), cases=24))
    summary, comparisons = summarize_group(group, resamples=20)
    tables = {"summary": summary, "comparisons": comparisons, "breakdown": breakdown_group(group, resamples=20)}
    for figure in figures(group, tables, equal_entries(group), WIDE).values():
        assert figure.get_size_inches()[1] < 11
        FigureCanvasAgg(figure).draw()


def test_a_methods_colour_is_the_same_in_every_run(group, results):
    """Whatever else was run, in whatever order; and layers share it."""
    other = group_of(
        results(methods=(("layer_cam", "x"), ("hirescam", "x"), ("activation_sum", "x"), ("grad_cam", "x")))
    )
    styles = {entry.method: style_of(entry) for entry in other.entries}
    for entry in group.entries:
        if entry.method in styles:
            assert style_of(entry) == styles[entry.method]
        if entry.control:
            red, green, blue = (style_of(entry)["color"][i : i + 2] for i in (1, 3, 5))
            assert red == green == blue
    shipped = {style_of(entry)["color"] for entry in other.entries if not entry.control}
    assert len(shipped) == 3


def test_equal_methods_have_one_name(group):
    assert titles(group.entries[:2]) == "Grad-CAM = HiResCAM"
    assert titles(group.entries, 2) == "Grad-CAM = HiResCAM = 8 more"


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


def test_saved_figures_have_a_sensible_size(group, tables, sets, tmp_path):
    shown = read_shown(group, 8)
    makers = figures(group, tables, sets, WIDE) | {"gallery": gallery_figure(group, shown, "bn2.act")}
    for name, figure in makers.items():
        save(figure, tmp_path / name, ["png"], 300)
        with Image.open(tmp_path / f"{name}.png") as image:
            width, height = image.size
            pixels = np.asarray(image.convert("L"))
        assert 500 < width < 3000 and 350 < height < 3000
        assert pixels.std() > 5  # not an empty page
    assert len(list(tmp_path.glob("*"))) == len(makers)  # and no temporary file is left


def test_names_with_special_characters(results):
    methods = (("grad_cam", "bn2.act"), ("a$b$_{c}<i>", "bn2.act"), ("grad_cam", "x[0]/y"), ("random", "-"))
    root = results(methods=methods, dataset="dä ta/[bold]", model="m$1$")
    group = group_of(root)
    summary, comparisons = summarize_group(group, resamples=20)
    tables = {"summary": summary, "comparisons": comparisons, "breakdown": breakdown_group(group, resamples=20)}
    made = figures(group, tables, equal_entries(group), WIDE)
    assert "a$b$_{c}<i>" in [text.get_text() for text in made["forest"].axes[0].get_yticklabels()]
    for figure in (*made.values(), gallery_figure(group, read_shown(group, 2), "x[0]/y")):
        FigureCanvasAgg(figure).draw()


def test_wrapped_cuts_at_underscores():
    assert wrapped("grad_cam") == "grad_cam"
    assert wrapped("grad_entropy_magnitude") == "grad_entropy_\nmagnitude"
    assert wrapped("grad_entropy(estimator=value, bins=3)") == "grad_entropy\n(estimator=value,\nbins=3)"
    assert wrapped("Grad Entropy-CAM", 10) == "Grad\nEntropy-\nCAM"
