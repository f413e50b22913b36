"""Pointing games against brute force over pixels, and TorchRay's published figure."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.datasets.transforms import collate, prepare
from bench.types import Case, InputSpec
from metrics import pointing


def brute_hit(point, mask, tolerance):
    """TorchRay's definition on a mask, pixel by pixel."""
    height, width = mask.shape
    return any(
        mask[y, x] and (x - point[0]) ** 2 + (y - point[1]) ** 2 < tolerance**2
        for y in range(height)
        for x in range(width)
    )


def hit(point, boxes, masks, tolerance=15):
    return bool(pointing.hits(torch.tensor([point], dtype=torch.float64), boxes, masks, tolerance)[0])


def test_hit_equals_brute_force():
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        x0, y0 = random.integers(0, 30, 2)
        x1, y1 = x0 + random.integers(1, 12), y0 + random.integers(1, 12)
        mask = np.zeros((45, 45), bool)
        mask[y0:y1, x0:x1] = True
        point = tuple((random.integers(0, 180, 2) / 4).tolist())
        tolerance = int(random.integers(1, 16))
        expected = brute_hit(point, mask, tolerance)
        box = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
        assert hit(point, box, None, tolerance) == expected
        assert hit(point, box, torch.from_numpy(mask)[None], tolerance) == expected
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize("size", [(9, 14), (13, 5), (1, 1)])
def test_pointing_game_equals_brute_force(make_batch, maps, size):
    """Mean over the highest positions, in original pixels, against every pixel of the mask."""
    named = maps(*size)
    height, width = size
    scale = (0.5, 0.25, 0.0, 0.0)  # originals of twice the width and four times the height
    mask = np.zeros((4 * height, 2 * width), bool)
    mask[2 * height : 3 * height, width // 2 : width + 1] = True
    box = [(width // 2) / 2, height / 2, (width + 1) / 2, 3 * height / 4]
    batch = make_batch(size, [[box]] * len(named), to_input=scale)
    seen = set()
    for masks in (None, torch.from_numpy(mask)[None]):
        batch.original_masks = [masks] * len(named)
        result = pointing.pointing_game(torch.stack(list(named.values())), batch, tolerance=3)["hit"].tolist()
        for value, (name, heatmap) in zip(result, named.items(), strict=True):
            highest = (heatmap == heatmap.max()).nonzero().tolist()
            points = [(2 * (x + 0.5) - 0.5, 4 * (y + 0.5) - 0.5) for y, x in highest]
            expected = np.mean([brute_hit(point, mask, 3) for point in points])
            assert value == pytest.approx(expected, abs=1e-6), name
            seen.add(expected)
    assert size == (1, 1) or seen > {0, 1}


@pytest.mark.parametrize("tolerance", [0.3, 1.0, 2.5, 5.0, 15.0])
def test_many_points_are_near_a_mask_as_by_brute_force(tolerance):
    rng = np.random.default_rng(0)
    for height, width, scale, shift in (
        (20, 31, 1.0, 0.0),
        (20, 31, 0.77, 3.3),
        (33, 17, 1.31, -4.2),
        (1, 1, 1.0, 0.5),
    ):
        mask = torch.from_numpy(rng.random((height, width)) < 0.03)
        x, y = torch.meshgrid(torch.arange(40.0).double(), torch.arange(30.0).double(), indexing="xy")
        points = torch.stack([x.flatten(), y.flatten()], dim=1) * scale + shift  # also beyond the picture
        rows, columns = mask.nonzero().double().unbind(1)
        squares = (points[:, :1] - columns) ** 2 + (points[:, 1:] - rows) ** 2
        expected = (squares < tolerance**2).any(1)
        assert torch.equal(pointing.near_mask(points, mask, tolerance), expected)


def test_tolerance_is_strict_and_edges_are_exact():
    box = torch.tensor([[20.0, 40.0, 30.0, 50.0]])  # pixels 20..29 and 40..49
    assert not hit((5, 45), box, None) and hit((6, 45), box, None)
    assert hit((43, 45), box, None) and not hit((44, 45), box, None)
    assert not hit((25, 25), box, None) and hit((25, 26), box, None)
    assert hit((25, 63), box, None) and not hit((25, 64), box, None)
    # 9-12-15 triangle off the corner (20, 40): distance exactly 15 misses.
    assert not hit((11, 28), box, None) and hit((12, 28), box, None)
    mask = torch.zeros(1, 60, 60, dtype=torch.bool)
    mask[0, 40:50, 20:30] = True
    assert not hit((11, 28), box, mask) and hit((12, 28), box, mask)
    assert not hit((0, 0), torch.zeros(0, 4), None)
    # A point between pixels counts from the nearest, here (26, 46).
    for point, expected in (((25.75, 45.75), True), ((25.5, 45.5), False)):
        assert hit(point, box, None, 0.5) == hit(point, box, mask, 0.5) == expected
    # A mask overrules its box.
    assert not hit((25, 45), box, torch.zeros(1, 60, 60, dtype=torch.bool))


def one_pixel(size, *places):
    heatmaps = torch.zeros(len(places), *size)
    for i, (y, x) in enumerate(places):
        heatmaps[i, y, x] = 1
    return heatmaps


def test_all_instances_count_also_difficult_ones(make_batch):
    boxes = [[0, 0, 5, 5], [80, 40, 90, 50]]
    places = [(2, 2), (45, 85), (30, 45), (45, 85)]
    difficult = [torch.tensor(flags) for flags in ([False, False], [False, True], [False, False], [True, True])]
    batch = make_batch((60, 100), [boxes] * 4, difficult=difficult)
    hits = pointing.pointing_game(one_pixel((60, 100), *places), batch)["hit"].tolist()
    assert hits[:3] == [1, 1, 0] and math.isnan(hits[3])


def test_an_object_that_the_input_cuts_away_is_a_miss(make_batch):
    """TorchRay judges all instances, in original pixels, whatever the network was shown of them."""
    boxes = [[[0, 0, 5, 5]], [[0, 0, 5, 5], [80, 40, 90, 50]], [[0, 0, 5, 5]], [[0, 0, 5, 5], [80, 40, 90, 50]]]
    difficult = [torch.tensor(flags) for flags in ([False], [False, True], [True], [True, True])]
    # The input shows the original from x = 30, y = 10: of the boxes that of (80, 40) alone.
    batch = make_batch((50, 70), boxes, to_input=(1.0, 1.0, 0.0, 0.0), difficult=difficult)
    batch.to_input = [(1.0, 1.0, -30.0, -10.0)] * 4
    batch.boxes = [torch.zeros(0, 4), torch.tensor([[50.0, 30, 60, 40]])] * 2
    batch.sizes = [(60, 100)] * 4
    heatmaps = one_pixel((50, 70), *[(35, 55)] * 4)  # on the difficult object that is left, where it is there
    for masks in (None, "of the boxes"):
        if masks:
            batch.original_masks = [torch.zeros(len(one), 60, 100, dtype=torch.bool) for one in boxes]
            for drawn, outlines in zip(batch.original_masks, boxes, strict=True):
                for mask, (x0, y0, x1, y1) in zip(drawn, outlines, strict=True):
                    mask[y0:y1, x0:x1] = True
        hits = pointing.pointing_game(heatmaps, batch)["hit"].tolist()
        # Cut away; one of two, hit though all that is left is difficult; nothing but difficult ones.
        assert hits[:2] == [0, 1] and all(map(math.isnan, hits[2:]))
        several = pointing.top_k_pointing(heatmaps, batch, tolerance=3)
        assert several["hit"][:2].tolist() == [0, 1] and several["recall"][:2].tolist() == [0, 0.5]
        assert several["hit"][2:].isnan().all()


def test_a_case_under_center_crop_is_judged_on_all_its_boxes():
    """From the case to the hit: the flags belong to all instances, also to those that the window leaves out."""
    spec = InputSpec(40, 40, (0.0,) * 3, (1.0,) * 3)
    away, left = [0.0, 0.0, 5.0, 5.0], [50.0, 10.0, 60.0, 20.0]  # of a picture of 100 x 40 the window is x 30 to 70
    hits = {}
    for name, boxes, flags in (
        ("away", [away], [False]), ("left is difficult", [away, left], [False, True]),
        ("all difficult", [away, left], [True, True]), ("away is difficult", [away], [True]),
    ):  # fmt: skip
        pixels = torch.zeros(3, 40, 100, dtype=torch.uint8)
        case = Case("a", "a", "", (0,), lambda pixels=pixels: (pixels, None), torch.tensor(boxes),
                    difficult=torch.tensor(flags))  # fmt: skip
        batch = collate([prepare(case, spec, "center_crop")], spec, torch.device("cpu"))
        heatmap = one_pixel((40, 40), (15, 25))  # the middle of the box that is left
        hits[name] = pointing.pointing_game(heatmap, batch)["hit"].item()
        several = pointing.top_k_pointing(heatmap, batch, k=1)["hit"].item()
        assert several == hits[name] or math.isnan(several) and math.isnan(hits[name])
    assert hits["away"] == 0 and hits["left is difficult"] == 1
    assert math.isnan(hits["all difficult"]) and math.isnan(hits["away is difficult"])


def test_no_ground_truth_and_empty_maps(make_batch):
    batch = make_batch((60, 100), [[], [[0, 0, 100, 60]], [[0, 0, 100, 60]], [[0, 0, 100, 60]]])
    heatmaps = one_pixel((60, 100), (0, 0), (0, 0), (0, 0), (0, 0))
    heatmaps[1] = 0
    heatmaps[2] = 0.7
    hits = pointing.pointing_game(heatmaps, batch)["hit"].tolist()
    # A box that fills the image is hit wherever a map points.
    assert math.isnan(hits[0]) and hits[1:] == [1, 1, 1]


def test_maximum_is_judged_in_original_pixels(make_batch):
    # Original 200 x 100 (width x height) squeezed to 50 x 50: input x scales by 1/4, y by 1/2.
    boxes = [[[10, 10, 15, 20]]]  # original x 40..60, y 20..40
    batch = make_batch((50, 50), boxes, to_input=(0.25, 0.5, 0.0, 0.0))
    assert batch.original_boxes[0].tolist() == [[40, 20, 60, 40]]
    for (y, x), expected in {
        (15, 12): 1,  # inside
        (15, 18): 1,  # original x 73.5: 14.5 from pixel 59
        (15, 19): 0,  # original x 77.5
        (26, 12): 1,  # original y 52.5: 13.5 from pixel 39
        (27, 12): 0,  # original y 54.5: 15.5
        (12, 15): 1,
    }.items():
        assert pointing.pointing_game(one_pixel((50, 50), (y, x)), batch)["hit"].item() == expected, (y, x)


def test_each_of_several_maxima_points_with_the_same_probability(make_batch):
    batch = make_batch((40, 60), [[[50, 0, 60, 3]], [[0, 37, 3, 40]]])
    heatmaps = torch.zeros(2, 40, 60)
    heatmaps[:, 0, 55] = 1
    heatmaps[:, 39, 0] = 1
    assert pointing.pointing_game(heatmaps, batch, tolerance=1)["hit"].tolist() == [0.5, 0.5]
    # A constant map points anywhere: its value is the share of positions that hit, with masks as with boxes.
    mask = torch.zeros(1, 40, 60, dtype=torch.bool)
    mask[0, :3, 50:] = True
    for masks in (None, mask):
        batch.original_masks = [masks] * 2
        constant = pointing.pointing_game(torch.full((2, 40, 60), -2.0), batch, tolerance=3)["hit"][0].item()
        places = [(x, y) for y in range(40) for x in range(60)]
        assert constant == pytest.approx(np.mean([brute_hit(place, mask[0].numpy(), 3) for place in places]), abs=1e-6)


def test_random_maps_hit_by_chance(make_batch):
    heatmaps = torch.rand(2000, 20, 30, generator=torch.Generator().manual_seed(0))
    batch = make_batch((20, 30), [[[10.0, 5.0, 20.0, 13.0]]] * 2000)
    mask = np.zeros((20, 30), bool)
    mask[5:13, 10:20] = True
    chance = np.mean([brute_hit((x, y), mask, 3) for y in range(20) for x in range(30)])
    rate = pointing.pointing_game(heatmaps, batch, tolerance=3)["hit"].mean().item()
    assert abs(rate - chance) < 3 * math.sqrt(chance * (1 - chance) / 2000)


def test_centre_reproduces_torchray(shared_data):
    """Published: 69.6 over all pairs and 42.4 over the difficult ones, VOC2007 test (Fong et al. 2019, table 1)."""
    folder = shared_data / "voc07_test_annotations"
    truth = json.loads((folder / "instances_test2007.json").read_text())
    with open(folder / "ebp_difficult_pairs.csv", newline="") as file:
        subset = {(int(row["image_id"]), int(row["category_id"])) for row in csv.DictReader(file)}
    images, objects, pairs = {image["id"]: image for image in truth["images"]}, {}, {}
    for annotation in truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
        pairs.setdefault((annotation["image_id"], annotation["category_id"]), []).append(annotation)
    sizes = [(images[image]["height"], images[image]["width"]) for image, _ in pairs]
    batch = SimpleNamespace(
        original_boxes=[
            torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in mine)], dtype=torch.float32)
            for mine in pairs.values()
        ],
        original_masks=[None] * len(pairs),
        difficult=[torch.tensor([one["difficult"] > 0 for one in mine]) for mine in pairs.values()],
        distractors=[
            any(one["category_id"] != category and not one["difficult"] for one in objects[image])
            for image, category in pairs
        ],
        sizes=sizes,
        # Shifted so that the map's first position is the original image's (w / 2, h / 2).
        to_input=[(1.0, 1.0, -width / 2, -height / 2) for height, width in sizes],
    )
    result = pointing.pointing_game(torch.tensor([[[1.0, 0.0]]]).expand(len(pairs), 1, 2), batch)
    names = [category for _, category in pairs]
    assert {pair for pair, value in zip(pairs, result["hit_difficult"].tolist(), strict=True) if value >= 0} == subset
    for output, accuracy in (("hit", 69.63), ("hit_difficult", 42.44)):
        by_class = {}
        for name, value in zip(names, result[output].tolist(), strict=True):
            by_class.setdefault(name, []).append(value)
        assert round(100 * float(np.mean([np.nanmean(values) for values in by_class.values()])), 2) == accuracy


def test_difficult_subset(make_batch):
    """Boxes fill less than a quarter of the image, and something else is there; overlaps count once."""
    overlapping = [[0, 0, 10, 10], [0, 5, 10, 14]]  # union 140 of 600 pixels, sum 190
    boxes = [overlapping, [[0, 0, 15, 10]], [[0, 0, 14, 10]], [[0, 0, 14, 10]], []]
    batch = make_batch((20, 30), boxes)
    batch.distractors = [True, True, True, False, True]
    result = pointing.pointing_game(one_pixel((20, 30), *[(1, 1)] * 5), batch)
    assert result["hit"][:4].tolist() == [1, 1, 1, 1]
    hard = result["hit_difficult"].tolist()
    assert hard[0] == hard[2] == 1 and all(math.isnan(hard[i]) for i in (1, 3, 4))
    # Masks where there are any: thin ones in large boxes are difficult; of two that overlap common pixels count once.
    thin, half = torch.zeros(2, 1, 20, 30, dtype=torch.bool)
    thin[0, 1, :], half[0, :8, :20] = True, True
    twice = torch.zeros(2, 20, 30, dtype=torch.bool)
    twice[:, :5, :20] = True
    batch = make_batch((20, 30), [[[0, 0, 30, 20]], [[0, 0, 9, 9]], [[0, 0, 20, 5]] * 2], masks=[thin, half, twice])
    hard = pointing.pointing_game(one_pixel((20, 30), *[(1, 1)] * 3), batch)["hit_difficult"].tolist()
    assert hard[0] == hard[2] == 1 and math.isnan(hard[1])


@pytest.mark.parametrize("size", [(9, 14), (1, 1)])
def test_energy_equals_brute_force(make_batch, maps, size):
    named = maps(*size)
    boxes = [[0.4, 0, 5.2, 3.6], [3, 2, 9.5, 6], [100, 100, 120, 120]]
    batch = make_batch(size, [boxes] * len(named))
    result = pointing.energy_pointing_game(torch.stack(list(named.values())), batch)["energy"]
    for value, (name, heatmap) in zip(result.tolist(), named.items(), strict=True):
        inside = total = 0.0
        for y in range(size[0]):
            for x in range(size[1]):
                energy = max(float(heatmap[y, x]), 0)
                total += energy
                if any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes):
                    inside += energy
        area = sum(
            any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes)
            for y in range(size[0])
            for x in range(size[1])
        ) / (size[0] * size[1])
        assert value == pytest.approx(inside / total if total else area, abs=1e-5), name


def test_energy_extremes(make_batch, cams):
    batch = make_batch((20, 30), [[[3, 4, 12, 15]]] * 2 + [[]])
    heatmaps = cams(3, 20, 30) + 0.1
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[4:15, 3:12] = True
    heatmaps[0] = heatmaps[0] * inside
    heatmaps[1] = heatmaps[1] * ~inside
    energy = pointing.energy_pointing_game(heatmaps, batch)["energy"].tolist()
    assert energy[:2] == pytest.approx([1, 0]) and math.isnan(energy[2])
    # One row or column beyond the box is seen.
    heatmaps[1] = 0
    heatmaps[1, 15, 3:12] = 1
    heatmaps[0] = 0
    heatmaps[0, 4:15, 12] = 1
    assert pointing.energy_pointing_game(heatmaps, batch)["energy"].tolist()[:2] == [0, 0]


def slow_peaks(heatmap, radius):
    """Positions that no position of their window exceeds, not the minimum, first of a plateau; highest first."""
    height, width = heatmap.shape
    values = heatmap.tolist()
    places = sorted(((y, x) for y in range(height) for x in range(width)), key=lambda p: (-values[p[0]][p[1]], *p))
    found = []
    for y, x in places:
        window = [
            values[i][j]
            for i in range(max(0, y - radius), min(height, y + radius + 1))
            for j in range(max(0, x - radius), min(width, x + radius + 1))
        ]
        alone = all(abs(y - i) > radius or abs(x - j) > radius for i, j in found)
        if values[y][x] == max(window) and values[y][x] > heatmap.min().item() and alone:
            found.append((y, x))
    return found


@pytest.mark.parametrize("radius", [1, 3])
def test_peaks_equal_brute_force(maps, cams, radius):
    for name, heatmap in (maps(14, 19) | {"more": cams(1, 14, 19, seed=9)[0]}).items():
        ranked = heatmap.flatten().sort(descending=True, stable=True).indices
        if name in ("zero", "constant"):
            assert pointing.peaks(heatmap, 2, radius, ranked).tolist() == ranked[:2].tolist()
            continue
        expected = [y * 19 + x for y, x in slow_peaks(heatmap, radius)]
        assert pointing.peaks(heatmap, 1000, radius, ranked).tolist() == expected, name
        assert pointing.peaks(heatmap, 2, radius, ranked).tolist() == expected[:2], name


def test_top_k_pointing_counts_peaks_and_instances(make_batch):
    boxes = [[5, 5, 15, 15], [60, 30, 80, 50], [85, 5, 95, 15]]
    heatmaps = torch.zeros(5, 60, 100)
    heatmaps[0, 10, 10], heatmaps[0, 40, 70], heatmaps[0, 10, 90] = 3, 2, 1  # one peak on each
    heatmaps[1, 10, 10], heatmaps[1, 40, 70] = 3, 2  # two of three
    heatmaps[2, 55, 30], heatmaps[2, 10, 10] = 3, 2  # the highest beside them
    heatmaps[3] = 0.5
    heatmaps[4, 8, 8], heatmaps[4, 9, 12], heatmaps[4, 14, 8] = 3, 2, 1  # one object, three positions, one peak
    batch = make_batch((60, 100), [boxes] * 5)
    result = pointing.top_k_pointing(heatmaps, batch, tolerance=1)
    sharp = [0, 1, 2, 4]
    assert result["recall"][sharp].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert result["precision"][sharp].tolist() == pytest.approx([1, 1, 0.5, 1])
    assert result["hit"][sharp].tolist() == [1, 1, 1, 1]
    first = pointing.top_k_pointing(heatmaps, batch, k=1, tolerance=1)["hit"]
    assert torch.equal(first[sharp], pointing.pointing_game(heatmaps, batch, tolerance=1)["hit"][sharp])
    assert first[sharp].tolist() == [1, 1, 0, 1]


def test_peaks_of_a_constant_map_hit_by_chance(make_batch):
    n = 600
    batch = make_batch((30, 40), [[[5, 5, 15, 15], [20, 12, 38, 28]]] * n)
    result = pointing.top_k_pointing(torch.zeros(n, 30, 40), batch, tolerance=1)
    chance = pointing.pointing_game(torch.zeros(1, 30, 40), make_batch((30, 40), [[batch.boxes[0].tolist()][0]]),
                                    tolerance=1)["hit"].item()  # fmt: skip
    error = result["precision"].std().item() / math.sqrt(n)
    assert abs(result["precision"].mean().item() - chance) < 4 * error


def test_top_k_pointing_leaves_out_and_refuses(make_batch):
    difficult = [torch.tensor([True]), torch.zeros(0, dtype=torch.bool)]
    batch = make_batch((20, 20), [[[1, 1, 5, 5]], []], difficult=difficult)
    result = pointing.top_k_pointing(one_pixel((20, 20), (2, 2), (2, 2)), batch)
    assert all(values.isnan().all() for values in result.values())
    for bad in ({"k": 0}, {"radius": 0}):
        with pytest.raises(ValueError, match="top_k_pointing"):
            pointing.top_k_pointing(torch.zeros(1, 4, 4), batch, **bad)


@pytest.mark.parametrize(
    ("size", "grid"), [((20, 30), (2, 2)), ((21, 31), (3, 2)), ((8, 8), (1, 4)), ((16, 18), (2, 3))]
)
def test_grid_pointing_game_equals_brute_force(make_batch, maps, size, grid):
    height, width = size
    rows, columns = grid
    named = maps(*size)
    boxes = [[1, 1, 5, 4], [1, height - 5, 4, height - 1]]
    batch = make_batch(size, [boxes] * len(named))
    result = pointing.grid_pointing_game(torch.stack(list(named.values())), batch, rows=rows, columns=columns)["share"]

    def cell(x, y):
        return int(y / height * rows), int(x / width * columns)

    wanted = {cell((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes}
    for value, (name, heatmap) in zip(result.tolist(), named.items(), strict=True):
        inside = total = 0.0
        for y in range(height):
            for x in range(width):
                energy = max(float(heatmap[y, x]), 0)
                total += energy
                inside += energy * (cell(x + 0.5, y + 0.5) in wanted)
        places = [cell(x + 0.5, y + 0.5) in wanted for y in range(height) for x in range(width)]
        assert value == pytest.approx(inside / total if total else np.mean(places), abs=1e-5), name


def test_grid_pointing_game_extremes(make_batch):
    batch = make_batch((20, 30), [[[15, 10, 30, 20]], [[15, 10, 30, 20]], [], [[40, 40, 50, 50]]])
    heatmaps = torch.zeros(4, 20, 30)
    heatmaps[0, 10:, 15:] = 1  # exactly the cell
    heatmaps[1] = 1
    shares = pointing.grid_pointing_game(heatmaps, batch)["share"]
    assert shares[:2].tolist() == pytest.approx([1, 0.25]) and shares[2:].isnan().all()
    heatmaps[0] = 0
    heatmaps[0, 9, 15:] = 1  # a row above
    assert pointing.grid_pointing_game(heatmaps, batch)["share"][0] == 0
