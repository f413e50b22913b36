"""Boxes of contours against flood fill by hand, and against OpenCV's own localization."""

import cv2
import numpy as np
import pytest

from metrics.boxes import contours

EIGHT = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
FOUR = [(0, 1), (1, 0), (0, -1), (-1, 0)]


def flood(pixels, neighbours):
    """Connected parts of a set of (y, x)."""
    left, parts = set(pixels), []
    while left:
        part, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            part.add((y, x))
            for dy, dx in neighbours:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    front.append((y + dy, x + dx))
        parts.append(part)
    return parts


def slow_boxes(mask):
    """A box around every part, and around the pixels next to every hole; ends cut as wsolevaluation cuts them."""
    height, width = mask.shape
    on = {(y, x) for y in range(height) for x in range(width) if mask[y, x]}
    outlines = flood(on, EIGHT)
    frame = {(y, x) for y in range(-1, height + 1) for x in range(-1, width + 1)}
    for hole in flood(frame - on, FOUR):
        if (-1, -1) not in hole:
            outlines.append({(y + dy, x + dx) for y, x in hole for dy, dx in FOUR} - hole)
    boxes = []
    for outline in outlines:
        ys, xs = zip(*outline, strict=True)
        boxes.append((min(xs), min(ys), min(max(xs) + 1, width - 1), min(max(ys) + 1, height - 1)))
    return sorted(boxes) or [(0, 0, 0, 0)]


def masks():
    random = np.random.default_rng(0)
    for i in range(120):
        height, width = random.integers(1, 22, 2)
        mask = (random.random((height, width)) < random.random()).astype(np.uint8)
        yield cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((2, 2), np.uint8)) if i % 2 else mask
    ring = np.zeros((9, 12), np.uint8)
    ring[1:8, 2:11] = 1
    ring[2:7, 3:10] = 0
    ring[4, 5:8] = 1  # a part inside a hole
    yield ring
    diamond = np.zeros((5, 5), np.uint8)
    diamond[[0, 1, 2, 3, 4, 3, 2, 1], [2, 1, 0, 1, 2, 3, 4, 3]] = 1
    yield diamond


def test_boxes_equal_flood_fill():
    for mask in masks():
        expected = slow_boxes(mask)
        assert sorted(map(tuple, contours.contour_boxes(mask)[0].tolist())) == expected


def test_both_ways_give_the_same():
    for mask in masks():
        if mask.any():
            traced, labelled = contours._trace(mask), contours._label(mask)
            assert sorted(map(tuple, traced[0].tolist())) == sorted(map(tuple, labelled[0].tolist()))
            # Of several largest contours they may name different ones, but never one that is smaller.
            sizes = {}
            for contour in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]:
                box = cv2.boundingRect(contour)
                sizes[box] = max(sizes.get(box, 0), cv2.contourArea(contour))
            for boxes, largest in (traced, labelled):
                assert sizes[tuple(boxes[largest].tolist())] == max(sizes.values())


def test_the_quick_way_is_taken_for_noise_only(monkeypatch):
    taken = []
    for name in ("_trace", "_label"):
        monkeypatch.setattr(contours, name, lambda mask, name=name: taken.append(name) or (np.ones((1, 4), int), 0))
    noise = (np.random.default_rng(0).random((224, 224)) < 0.5).astype(np.uint8)
    blob = np.zeros((224, 224), np.uint8)
    blob[50:100, 20:200] = 1
    for mask in (noise, blob):
        contours.contour_boxes(mask)
    assert taken == ["_label", "_trace"]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1)])
def test_thin_images(size):
    assert contours.contour_boxes(np.ones(size, np.uint8))[0].tolist() == [[0, 0, size[1] - 1, size[0] - 1]]
    assert contours.contour_boxes(np.zeros(size, np.uint8))[0].tolist() == [[0, 0, 0, 0]]
