"""report.html in a browser: it opens from a file, sorts, filters, draws what the benchmark draws, runs nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.metrics.geometry import instance_masks
from bench.metrics.ranking import expected_counts
from browsing import browser, needs_browser, visit
from made_results import group_of, make_results
from matplotlib import colormaps
from PIL import Image
from rich.console import Console

from bench.analysis.kept_maps import native_map, read_shown, upsample
from bench.report import report
from bench.store.files import image_name

__all__ = ["browser", "visit"]
CLASS, FILE = "<script>alert(1)</script>", '"><img src=x>.jpg'


def built(root: Path, **options) -> Path:
    report(root, console=Console(file=io.StringIO()), redraw=False, **options)
    return root / "report.html"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> Path:
    """report.html of results on enough images for verdicts."""
    return built(make_results(tmp_path_factory.mktemp("page") / "results", cases=36))


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, for tests of other parts."""
    monkeypatch.setattr("bench.report.draw", lambda *given, **more: None)


def visible(page, index):
    """Values of a column of the layer that is open first."""
    cells = page.locator(f"table.results tbody.rows >> nth=0 >> tr > :nth-child({index + 1})")
    return [cell.get_attribute("data-value") for cell in cells.all()]


@needs_browser
def test_opens_from_a_file_with_every_figure_as_text(page_path, visit):
    assert page_path.stat().st_size < 15e6
    text = page_path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)  # nothing from elsewhere
    page = visit(page_path)
    titles = page.locator("figure h3").all_inner_texts()
    assert titles == ["Differences", "One object and several", "Depth", "Curves"]
    for drawing in page.locator("figure .drawing").all():
        assert len(drawing.get_attribute("aria-label")) > 80
        assert drawing.locator("svg text").count() > 5 and drawing.locator("svg").bounding_box()["width"] > 300
    for image in page.locator(".case img").all():
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 0
        assert image.get_attribute("alt") is not None


@needs_browser
def test_the_answers_come_first_with_n_and_interval(page_path, visit):
    page = visit(page_path)
    heads = [text.split("\n")[0] for text in page.locator(".answer dt").all_inner_texts()]
    assert heads[0].startswith("One object") and heads[-1].startswith("Unusable")
    for text in page.locator(".answer dd").all_inner_texts()[:-1]:
        assert re.search(r"n = \d+ cases on \d+ images", text)
    assert page.locator(".banner").count() >= 2
    first = page.locator(".answer").first.bounding_box()
    assert first["y"] < page.locator("table.results").bounding_box()["y"] and first["y"] < 900
    assert " best" not in page.locator(".lead").inner_text()


@needs_browser
def test_sorting_by_mouse_and_keyboard(page_path, visit):
    page = visit(page_path)
    heads = page.locator("table.results thead button")
    names = [" ".join(text.split()) for text in heads.all_inner_texts()]
    at = names.index("deletion AUC ↓")
    heads.nth(at).click()
    values = [float(value) for value in visible(page, at)]
    assert values == sorted(values) and len(set(values)) > 2  # lower is better: best first
    heads.nth(at).press("Enter")
    assert [float(value) for value in visible(page, at)] == sorted(values, reverse=True)
    assert page.locator("th[aria-sort]").count() == 1
    assert page.locator("thead th").nth(at).get_attribute("aria-sort") == "descending"
    heads.nth(names.index("min coverage ↑")).press("Space")
    values = [float(value) for value in visible(page, names.index("min coverage ↑"))]
    assert values == sorted(values, reverse=True)
    heads.nth(0).click()
    assert visible(page, 0) == sorted(visible(page, 0), key=str.lower)


@needs_browser
def test_the_table_in_short_and_its_options(page_path, visit):
    page = visit(page_path)
    assert page.locator("td.best").count() >= 3
    assert not page.locator(".difference").first.is_visible()
    page.get_by_label("differences to grad_cam").check()
    assert page.locator(".difference").first.is_visible()
    heads = page.locator("table.results thead th:visible").count()
    page.get_by_label("all measures").check()
    assert page.locator("table.results thead th:visible").count() == heads + 3
    shown = page.locator("tbody.rows tr:visible").count()
    page.locator("input[data-show=controls]").uncheck()
    assert page.locator("tbody.rows tr:visible").count() == shown - 4
    opener = page.locator(".opener").first
    assert opener.get_attribute("aria-expanded") == "true"
    opener.click()
    assert opener.get_attribute("aria-expanded") == "false" and page.locator("tbody.rows").first.is_hidden()


def gallery_data(page):
    return json.loads(page.locator("script[data-gallery]").text_content())


@needs_browser
def test_filters_orders_and_the_address(page_path, visit):
    page = visit(page_path)
    cases = page.locator(".case")
    gallery = gallery_data(page)
    data, layer = gallery["cases"], gallery["layer"]
    assert cases.count() == len(data) == 4
    page.locator("select[name=order]").select_option("disagreement")
    far = [case["disagreement"][layer] for case in data]
    order = [data[i]["id"] for i in np.argsort(far)[::-1]]
    assert [case.get_attribute("data-id") for case in cases.all()] == order
    page.locator("select[name=class]").select_option(label="cat")
    assert {case.get_attribute("data-class") for case in cases.all()} == {"cat"} and cases.count() == 2
    page.locator("select[name=class]").select_option(index=0)
    page.locator("select[name=order]").select_option("worst")
    at = int(page.locator("select[name=value]").input_value())
    entries = gallery["entries"]
    own = [i for i, e in enumerate(entries) if not e["control"] and e["layer"] in (layer, "-")]
    quality = []
    for case in data:
        known = [case["values"][i][at] for i in own if case["values"][i][at] is not None]
        quality.append(np.mean(known) if known else np.inf)  # a case without the value stands last
    worst = [data[i]["id"] for i in np.argsort(quality)]
    assert [case.get_attribute("data-id") for case in cases.all()] == worst
    page.locator("select[name=layer]").select_option("bn2.act")
    assert {tile.get_attribute("data-layer") for tile in page.locator(".tile").all()} == {"bn2.act"}
    reason = page.locator(".tile[data-method=grad_entropy] .reason").first.inner_text()
    assert reason == "no map: zero map, entropy of a flat gradient is 0"
    assert page.locator(".tile[data-method=grad_entropy].missed").count() == 0
    again = visit(page_path, address=page.evaluate("location.hash"))  # the address brings it all back
    assert again.locator("select[name=layer]").input_value() == "bn2.act"
    assert again.locator("select[name=order]").input_value() == "worst"


@needs_browser
def test_slider_changes_the_overlay(page_path, visit):
    page = visit(page_path)
    canvas = page.locator(".tile canvas").first
    canvas.scroll_into_view_if_needed()
    before, picture = canvas.evaluate("(c) => getComputedStyle(c).opacity"), canvas.screenshot()
    slider = page.get_by_label("opacity")
    slider.press("Home")
    assert before == "0.85" and canvas.evaluate("(c) => getComputedStyle(c).opacity") == "0"
    bare = canvas.screenshot()
    slider.press("End")
    full = canvas.screenshot()
    assert len({picture, bare, full}) == 3


@needs_browser
def test_overlay_is_the_benchmarks_map_clear_where_it_is_cold(page_path, visit):
    page = visit(page_path)
    layer = gallery_data(page)["layer"]
    group = group_of(page_path.parent)
    case_id, rows = next(iter(read_shown(group, 1).rows[f"grad_cam@{layer}"].items()))
    heat = upsample(native_map(rows), 224, 224)
    level = np.round((heat - heat.min()) / (heat.max() - heat.min()) * 255).astype(int)
    expected = colormaps["inferno"](level)[..., :3] * 255
    selector = f'.case[data-id="{case_id}"] .tile[data-method=grad_cam] canvas'
    page.locator(selector).scroll_into_view_if_needed()
    page.locator(f'.case[data-id="{case_id}"] .tile[data-method=grad_cam] svg').wait_for(state="attached")
    # Drawn over black and white, the canvas tells its colour and its transparency.
    script = """(canvas) => ["#000", "#fff"].map((ground) => {
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const context = copy.getContext("2d");
        context.fillStyle = ground;
        context.fillRect(0, 0, copy.width, copy.height);
        context.drawImage(canvas, 0, 0);
        return copy.toDataURL().split(",")[1];
    })"""
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), dtype=float)
             for text in page.locator(selector).evaluate(script)]  # fmt: skip
    alpha = 1 - (drawn[1] - drawn[0]).mean(axis=2) / 255
    np.testing.assert_allclose(alpha, level / 255, atol=0.015)
    seen = alpha > 0.3  # where it is nearly clear, rounding decides the colour
    difference = np.abs(drawn[0][seen] / alpha[seen][:, None] - expected[seen])
    assert np.quantile(difference, 0.99) < 6 and difference.mean() < 2


@needs_browser
def test_each_box_has_the_coverage_of_the_metric(page_path, visit):
    page = visit(page_path)
    gallery = gallery_data(page)
    for case in gallery["cases"]:
        at = next(i for i, e in enumerate(gallery["entries"]) if e["label"] == f"hirescam@{gallery['layer']}")
        tile = case["maps"][at]
        heat = upsample(
            np.frombuffer(base64.b64decode(tile["data"]), np.uint8).reshape(tile["shape"]) / 255.0, 224, 224
        )
        boxes = torch.tensor(case["boxes"], dtype=torch.float64)
        masks = instance_masks(boxes, torch.from_numpy(heat)).flatten(1)
        values, order = torch.from_numpy(heat).flatten().sort(descending=True, stable=True)
        expected = expected_counts(values, masks[:, order], [int(masks.any(0).sum())])[:, 0] / masks.sum(1)
        tiles = page.locator(f'.case[data-id="{case["id"]}"] .tile[data-method=hirescam]')
        tiles.scroll_into_view_if_needed()
        tiles.locator("svg").wait_for(state="attached")
        shown = [float(text) for text in tiles.locator("svg text").all_text_contents()]
        np.testing.assert_allclose(shown, expected, atol=0.011)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing(page_path, visit, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    page = visit(page_path, width=width, color_scheme=scheme, bypass_csp=True)
    for opener in page.locator("details").all():
        opener.evaluate("(node) => { node.open = true; }")
    page.get_by_label("all measures").check()
    result = axe.Axe().run(page)
    assert result.violations_count == 0, result.generate_report()


@needs_browser
def test_many_layers_and_methods_stay_a_page_that_answers(results, visit):
    """33 layers, 10 methods: one layer open, maps painted when they are seen, little work for a click."""
    names = ["grad_cam", "hirescam", "layer_cam", "grad_cam_pp", "eigen_cam", "grad_entropy", "feature_entropy", "fem"]
    methods = [(m, f"features.{i}") for i in range(33) for m in (*names, "xgrad_cam", "activation_sum")]
    page = visit(built(results(methods=[*methods, ("random", "-")], cases=24, gallery=8)), width=1440)
    assert page.evaluate("document.documentElement.scrollHeight") < 15000
    assert page.locator("canvas").count() < 6 * 10 + 2
    assert page.locator("tbody.rows:visible").count() == 2  # the best layer, and what looks at none
    for figure in page.locator("figure svg").all():
        assert figure.bounding_box()["height"] < 900
    work = page.evaluate(
        """async () => {
            const select = document.querySelector("select[name=layer]");
            const began = performance.now();
            select.selectedIndex = 5;
            select.dispatchEvent(new Event("change"));
            return performance.now() - began;
        }"""
    )
    assert work < 2000  # milliseconds; it takes some 30 on an idle machine, this is a bound on runaway work


@needs_browser
def test_nothing_in_names_is_run_or_drawn(results, undrawn, visit):
    names = {"classes": (CLASS, "cup", FILE), "picture": f"{{:04d}}{FILE}"}
    methods = (("grad_cam", "bn2.act"), (f"</script>{CLASS}", "bn2.act"), ("random", "-"))
    note = {"made": {"command": ["bench/__main__.py", CLASS]}, "skipped": [{"case_id": FILE, "reason": CLASS}]}
    root = results(methods=methods, dataset=f"{CLASS}{{{{7*7}}}}", model=FILE, note=note, **names)
    page = visit(built(root))
    text = page.locator("body").inner_text()
    assert text.count(CLASS) >= 5 and FILE in text and "{{7*7}}" in text
    assert CLASS in page.locator(".case h3").all_inner_texts()
    assert any(FILE in facts for facts in page.locator(".case .facts").all_inner_texts())
    assert page.locator('img[src="x"]').count() == 0
    kinds = page.locator("script").evaluate_all("(all) => all.map((one) => one.type)")
    assert kinds == ["application/json", "application/json", ""]
    page.locator("select[name=class]").select_option(label=CLASS)
    assert {case.get_attribute("data-class") for case in page.locator(".case").all()} == {CLASS}


@needs_browser
def test_several_results_begin_with_a_matrix(results, undrawn, visit):
    few = (("grad_cam", "bn2.act"), ("random", "-"))
    results("both", dataset="one", seed=1, cases=8, methods=few)
    page = visit(built(results("both", dataset="two", seed=2, cases=8, methods=few)))
    matrix = page.locator("table.matrix").first
    assert matrix.locator("thead th").all_inner_texts()[1:] == ["one / efficientnet_lite0", "two / efficientnet_lite0"]
    assert matrix.locator("tbody th").all_inner_texts() == ["Grad-CAM", "Random"]
    heading = ".group:visible > .intro h2"
    assert page.locator(heading).all_inner_texts() == ["one / efficientnet_lite0"]
    matrix.locator("thead button").nth(1).click()
    assert page.locator(heading).all_inner_texts() == ["two / efficientnet_lite0"]
    assert page.locator(".case:visible").count() == 4


@needs_browser
def test_a_picture_without_a_label_shows_what_was_predicted(one_run, undrawn, visit):
    row = {"case_id": "a.jpg", "image_id": "a.jpg", "class_name": "", "n_instances": 0, "boxes": [], "other_boxes": []}
    root = one_run("grad_cam", "bn2.act", [row | {"deletion.auc": 0.5, "predicted": 281}])
    (folder,) = root.glob("*/*/")
    (folder / "_images").mkdir()
    Image.new("RGB", (224, 224)).save(folder / "_images" / f"{image_name('a.jpg')}.png")
    page = visit(built(root))
    assert page.locator(".case h3").inner_text() == "output 281"  # names are known for ImageNet's thousand alone
    facts = page.locator(".case .facts").first.inner_text()
    assert "output 281 (0.9)" in facts and "instance" not in facts
    assert page.locator("select[name=instances]").is_hidden() and page.locator("input[name=boxes]").is_hidden()


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_theme(page_path, visit, scheme):
    page = visit(page_path, width=390, color_scheme=scheme)
    cells = page.locator("tbody.rows:visible tr").first.locator("td:visible").all()
    labels = [cell.get_attribute("data-label") for cell in cells]
    assert labels == ["deletion AUC ↓", "min coverage ↑", "coverage ↑", "cases"]  # a card of the table in short
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    after = page.evaluate(ground)
    dark, light = (before, after) if scheme == "dark" else (after, before)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))
