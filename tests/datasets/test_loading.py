"""Loading: every case in order, bad pictures named and counted, the same with worker processes."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.datasets import loading
from bench.datasets.images import read_image
from bench.datasets.loading import AHEAD, Bad, refuse_many_bad, samples
from bench.datasets.transforms import collate, prepare
from bench.types import Case, InputSpec, UserError

SPEC = InputSpec(16, 16, (0.0,) * 3, (1.0,) * 3)


def load(path: str) -> tuple[Tensor, None]:
    return read_image(path), None


def case_of(name: str, image: str, path: Path, box: tuple[float, ...] = (1, 1, 9, 9)) -> Case:
    nothing, boxes = torch.zeros(0, 4), torch.tensor([box])
    return Case(name, image, "", (), partial(load, str(path)), boxes, nothing, torch.zeros(1, dtype=torch.bool))


@pytest.mark.parametrize("workers", [0, 2])
def test_all_cases_in_order(tmp_path: Path, workers: int) -> None:
    cases = []
    for i in range(40):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (20, 10), (i, 0, 0)).save(path)
        if i in (3, 39):
            path.write_bytes(path.read_bytes()[:40])
        cases.append(case_of(str(i), str(i), path))
    found = list(samples(cases, SPEC, "stretch", workers, torch.device("cpu")))
    assert [item.case_id if isinstance(item, Bad) else item.case.id for item in found] == [str(i) for i in range(40)]
    assert [i for i, item in enumerate(found) if isinstance(item, Bad)] == [3, 39]
    assert all(item.image[0].mean() == pytest.approx(i / 255) for i, item in enumerate(found) if i not in (3, 39))
    assert "3.png" in found[3].reason


@pytest.mark.parametrize("workers", [0, 1])
def test_cases_of_a_picture_share_its_pixels_and_nothing_else(tmp_path: Path, workers: int) -> None:
    """Each sample is what it is alone, also where a bad case comes first."""
    pictures = []
    for i in range(3):
        pictures.append(tmp_path / f"{i}.png")
        Image.radial_gradient("L").rotate(i).convert("RGB").resize((60, 40)).save(pictures[i])
    (tmp_path / "torn.png").write_bytes(pictures[0].read_bytes()[:60])
    order = [0, 0, 0, 1, 2, 2, 0]  # the last one comes back to a picture seen before
    cases = [case_of(f"{n}", f"{i}", pictures[i], (n, 1, 20 + n, 9)) for n, i in enumerate(order)]
    cases.insert(3, case_of("torn", "1", tmp_path / "torn.png"))
    found = list(samples(cases, SPEC, "center_crop", workers, torch.device("cpu")))
    assert isinstance(found.pop(3), Bad)
    for case, sample in zip(cases[:3] + cases[4:], found, strict=True):
        alone = prepare(case, SPEC, "center_crop")
        assert sample.case.id == case.id
        for name in ("image", "boxes"):
            assert torch.equal(getattr(sample, name), getattr(alone, name))
        assert sample.to_input == alone.to_input


def test_a_picture_is_transformed_once_for_all_its_cases(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    found = list(
        samples([case_of(str(n), "a", tmp_path / "a.png") for n in range(5)], SPEC, "pad", 0, torch.device("cpu"))
    )
    assert all(sample.image is found[0].image for sample in found)


def test_a_thread_is_a_few_pictures_ahead_and_stops_with_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    seen, enough = [], threading.Event()

    def noted(case: Case, *more: object) -> object:
        seen.append((case.id, threading.current_thread() is threading.main_thread()))
        if len(seen) > AHEAD:
            enough.set()
        return prepare(case, *more)

    monkeypatch.setattr(loading, "prepare", noted)
    stream = samples(
        [case_of(str(n), str(n), tmp_path / "a.png") for n in range(100)], SPEC, "pad", 0, torch.device("cpu")
    )
    next(stream)
    assert enough.wait(60) and not any(here for _, here in seen)
    before = threading.active_count()
    stream.close()
    assert [name for name, _ in seen] == [str(n) for n in range(len(seen))] and len(seen) <= AHEAD + 1
    assert threading.active_count() < before


def test_the_thread_has_no_helpers_of_its_own_and_the_network_keeps_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    threads = set()

    def noted(*given: object) -> object:
        threads.add(torch.get_num_threads())
        return prepare(*given)

    monkeypatch.setattr(loading, "prepare", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stream = samples([case_of("a", "a", tmp_path / "a.png")], SPEC, "pad", 0, torch.device("cpu"))
        next(stream)
        assert (threads, torch.get_num_threads()) == ({1}, 2)
        stream.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_over_five_percent_bad_pictures_stop() -> None:
    bad = [Bad(f"{n}/cat", str(n), "torn") for n in range(6)]
    twice = Bad("0/dog", "0", "torn")  # two cases of one picture are one bad picture
    five = [*bad[:3], twice, *bad[3:5]]
    assert list(refuse_many_bad(iter(five), "coco", 100, 0.05)) == five
    stream = refuse_many_bad(iter([*five, bad[5]]), "coco", 100, 0.05)
    assert [next(stream) for _ in five] == five
    with pytest.raises(UserError, match="dataset=coco: 6 of 100 pictures are bad, last 5/cat: torn; .*allow_bad_recor"):
        next(stream)
    with pytest.raises(UserError, match="6 of 100"):  # five were bad in chunks finished earlier, one of them again
        list(refuse_many_bad(iter([bad[4], bad[5]]), "coco", 100, 0.05, [str(n) for n in range(5)]))
    assert len(list(refuse_many_bad(iter(bad), "coco", 6, 1.0))) == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pixels_are_page_locked_beside_a_gpu(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    cases = [case_of(str(n), str(n), tmp_path / "a.png") for n in range(3)]
    found = list(samples(cases, SPEC, "stretch", 1, torch.device("cuda")))
    assert all(sample.image.is_pinned() for sample in found)
    assert collate(found, SPEC, torch.device("cuda")).images.device.type == "cuda"


def test_a_picture_with_many_cases_costs_few_open_files(tmp_path: Path) -> None:
    """Every tensor between processes is one; systems allow 1,024."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    picture = loading._Prepared([case_of(str(n), "a", tmp_path / "a.png") for n in range(9)], SPEC, "pad")[0]
    small, large = loading._pack(picture)
    assert (
        isinstance(small, bytes)
        and len({id(one) for each in large for one in each.values() if isinstance(one, torch.Tensor)}) == 1
    )
