"""report.html in a browser: it opens from a file, sorts, filters, draws what the benchmark draws, runs nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_results import group_of
from matplotlib import colormaps
from PIL import Image
from rich.console import Console

from bench.analysis.kept_maps import native_map, read_shown, upsample
from bench.figures.style import save
from bench.report import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; .ci/run installs Debian's")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
CLASS, FILE = "<script>alert(1)</script>", '"><img src=x>.jpg'


def built(root: Path, **options) -> Path:
    report(root, console=Console(file=io.StringIO()), redraw=False, **options)
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """``visit(path, **context)``: open a file; whatever the browser complains about fails the test at its end."""
    contexts, complaints = [], []

    def go(path: Path, width: int = 1280, **more):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on("requestfailed", lambda request: complaints.append(request.url[:80]))
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def page_path(finished, tmp_path_factory) -> Path:
    """report.html of the usual results, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:  # the page shows the SVGs; PNGs take time
        patch.setattr(
            "bench.figures.draw.save", lambda figure, path, formats, dpi: save(figure, path, {"svg"} & {*formats}, dpi)
        )
        return built(Path(shutil.copytree(finished, tmp_path_factory.mktemp("page") / "results")))


@pytest.fixture
def undrawn(monkeypatch):
    """Without figures, for tests of other parts."""
    monkeypatch.setattr("bench.report.draw", lambda *given, **more: None)


def column(page, index):
    cells = page.locator(f"table.results tbody tr > :nth-child({index + 1})")
    return [cell.get_attribute("data-value") for cell in cells.all()]


@needs_browser
def test_opens_from_a_file_with_every_image(page_path, visit):
    assert page_path.stat().st_size < 15e6
    text = page_path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)  # nothing from elsewhere
    page = visit(page_path)
    titles = page.locator("figure h3").all_inner_texts()
    assert titles[:3] == ["Means", "Curves", "Coverage by number of instances"] and len(titles) == 6
    images = page.locator("img").all()
    assert len(images) >= 6 + 4
    for image in images:
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 0
        assert image.get_attribute("alt") is not None
    for figure in page.locator("figure img").all():
        assert len(figure.get_attribute("alt")) > 20


@needs_browser
def test_sorting_by_mouse_and_keyboard(page_path, visit):
    page = visit(page_path)
    heads = page.locator("table.results thead button")
    names = [" ".join(text.split()) for text in heads.all_inner_texts()]
    at = names.index("deletion AUC ↓")
    heads.nth(at).click()
    values = [float(value) for value in column(page, at)]
    assert values == sorted(values) and len(set(values)) > 3  # lower is better: best first
    heads.nth(at).press("Enter")
    assert [float(value) for value in column(page, at)] == sorted(values, reverse=True)
    assert page.locator("th[aria-sort]").count() == 1
    assert page.locator("th").nth(at).get_attribute("aria-sort") == "descending"
    heads.nth(names.index("coverage ↑")).press("Space")
    values = [float(value) for value in column(page, names.index("coverage ↑"))]
    assert values == sorted(values, reverse=True)
    heads.nth(0).click()
    assert column(page, 0) == sorted(column(page, 0), key=str.lower)


@needs_browser
def test_best_is_marked_and_options_show(page_path, visit):
    page = visit(page_path)
    assert page.locator("td.best").count() >= 6
    assert not page.locator(".difference").first.is_visible()
    page.get_by_label("differences to grad_cam").check()
    assert page.locator(".difference").first.is_visible()
    shown = page.locator("tbody tr:visible").count()
    page.locator("input[data-show=controls]").uncheck()
    assert page.locator("tbody tr:visible").count() == shown - 4


@needs_browser
def test_filters_and_orders(page_path, visit):
    page = visit(page_path)
    cases = page.locator(".case")
    data = json.loads(page.locator("script[data-gallery]").text_content())["cases"]
    assert cases.count() == len(data) == 4
    far = [np.mean(list(case["disagreement"].values())) for case in data]
    order = [data[i]["id"] for i in np.argsort(far)[::-1]]
    assert [case.get_attribute("data-id") for case in cases.all()] == order
    page.locator("select[name=class]").select_option(label="cat")
    assert {case.get_attribute("data-class") for case in cases.all()} == {"cat"} and cases.count() == 2
    page.locator("select[name=class]").select_option(index=0)
    number = str(data[1]["instances"])
    page.locator("select[name=instances]").select_option(number)
    expected = [case["id"] for case in data if str(case["instances"]) == number]
    assert sorted(case.get_attribute("data-id") for case in cases.all()) == sorted(expected)
    page.locator("select[name=instances]").select_option("")
    page.locator("select[name=order]").select_option("failures")
    entries = json.loads(page.locator("script[data-gallery]").text_content())["entries"]
    at = int(page.locator("select[name=value]").input_value())
    plain = [i for i, entry in enumerate(entries) if not entry["control"]]
    quality = []
    for case in data:
        found = [case["values"][i][at] for i in plain if case["values"][i][at] is not None]
        quality.append(np.mean(found) if found else np.inf)  # a case without the value stands last
    assert [case.get_attribute("data-id") for case in cases.all()] == [data[i]["id"] for i in np.argsort(quality)]
    page.locator("select[name=layer]").select_option("bn2.act")
    assert {tile.get_attribute("data-layer") for tile in page.locator(".tile").all()} == {"bn2.act"}
    reason = page.locator(".tile[data-method=grad_entropy] .reason").first.inner_text()
    assert reason == "zero map: entropy of a flat gradient is 0"


@needs_browser
def test_slider_changes_the_overlay(page_path, visit):
    page = visit(page_path)
    canvas = page.locator(".tile canvas").first
    before, picture = canvas.evaluate("(c) => getComputedStyle(c).opacity"), canvas.screenshot()
    slider = page.get_by_label("opacity")
    slider.press("Home")
    assert before == "0.65" and canvas.evaluate("(c) => getComputedStyle(c).opacity") == "0"
    bare = canvas.screenshot()
    slider.press("End")
    full = canvas.screenshot()
    assert len({picture, bare, full}) == 3


@needs_browser
@pytest.mark.parametrize("colours", ["viridis", "cividis", "turbo"])
def test_overlay_is_the_benchmarks_map(page_path, visit, colours):
    group = group_of(page_path.parent)
    case_id, rows = next(iter(read_shown(group, 1).rows["grad_cam@bn2.act"].items()))
    heat = upsample(native_map(rows), 224, 224)
    level = np.round((heat - heat.min()) / (heat.max() - heat.min()) * 255).astype(int)
    expected = colormaps[colours](level)[..., :3] * 255
    page = visit(page_path)
    page.locator("select[name=colours]").select_option(colours)
    selector = f'.case[data-id="{case_id}"] .tile[data-method=grad_cam][data-layer="bn2.act"] canvas'
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
    np.testing.assert_allclose(alpha, (128 + level / 2) / 255, atol=0.015)
    difference = np.abs(drawn[0] / alpha[..., None] - expected)
    # One level of a map's 256 and the rounding of half-transparent pixels.
    assert np.quantile(difference, 0.99) < 6 and difference.mean() < 2


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
def test_several_results_are_chosen_by_name(results, undrawn, visit):
    few = (("grad_cam", "bn2.act"), ("random", "-"))
    results("both", dataset="one", seed=1, cases=8, methods=few)
    page = visit(built(results("both", dataset="two", seed=2, cases=8, methods=few)))
    assert page.locator(".group:visible h1").all_inner_texts() == ["one / efficientnet_lite0"]
    page.locator("#groups").select_option(index=1)
    assert page.locator(".group:visible h1").all_inner_texts() == ["two / efficientnet_lite0"]
    assert page.locator(".case:visible").count() == 4


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_theme(page_path, visit, scheme):
    page = visit(page_path, width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.locator("#theme").click()
    after = page.evaluate(ground)
    dark, light = (before, after) if scheme == "dark" else (after, before)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))
