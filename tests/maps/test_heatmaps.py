"""Heatmaps at input size, degenerate maps, equal maps, and who is to blame for an error."""

from __future__ import annotations

import types

import pytest
import torch
from contract import make_batch, make_network, maps, part
from torch import Tensor

from bench.maps.heatmaps import degenerate, fuse, map_ids, named_errors, upsample
from bench.types import UserError


def test_a_larger_map_of_a_volume_is_averaged() -> None:
    """No voxel is passed over; slice by slice a picture's where one axis stays, and every axis alike."""
    dots = torch.zeros(1, 32, 32, 32)
    dots[:, ::4, ::4, ::4] = 1
    inner = upsample(dots, (8, 8, 8))[0, 1:-1, 1:-1, 1:-1]
    assert 0.5 / 64 < inner.min() and inner.max() < 2 / 64
    values = torch.rand(2, 6, 20, 14, generator=torch.Generator().manual_seed(0))
    slices = torch.stack([upsample(values[:, i], (9, 30)) for i in range(6)], 1)
    torch.testing.assert_close(upsample(values, (6, 9, 30)), slices)
    for axes in ((0, 2, 1, 3), (0, 3, 2, 1)):
        size = tuple((4, 9, 30)[axis - 1] for axis in axes[1:])
        torch.testing.assert_close(upsample(values.permute(axes), size).permute(axes), upsample(values, (4, 9, 30)))


def test_degenerate_reasons() -> None:
    native = torch.stack([torch.zeros(2, 2), torch.ones(2, 2), torch.eye(2), torch.full((2, 2), torch.nan)])
    assert degenerate(native) == ["zero", "constant", "", "nonfinite"]
    assert torch.equal(upsample(native, (4, 4))[3], torch.zeros(4, 4))


def test_upsampling_is_bilinear_and_not_corner_aligned() -> None:
    row = upsample(torch.tensor([[[0.0, 4.0]]]), (1, 4))[0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 1.0, 3.0, 4.0]))


def test_a_map_larger_than_the_input_is_averaged() -> None:
    """Linear sampling of every fourth position between the dots would see none of them."""
    dots = torch.zeros(1, 64, 96)
    dots[:, ::4, 48::4] = 1
    smaller = upsample(dots, (16, 24))
    assert smaller[0, :, 13:].min() > 0.02 and smaller[0, :, :11].max() == 0
    assert smaller.sum().item() == pytest.approx(dots.sum().item() / 16, rel=0.05)
    taller = upsample(dots, (128, 24))  # larger along one axis only
    assert taller.sum().item() == pytest.approx(dots.sum().item() / 2, rel=0.1)


def test_a_constant_map_stays_constant() -> None:
    """Rounding of the interpolation alone would rank the positions of most of them."""
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    larger = upsample(values.view(-1, 1, 1).expand(-1, 7, 9), (224, 224))
    assert torch.equal(larger, values.view(-1, 1, 1).expand(-1, 224, 224))


def test_fused_maps_are_divided_by_their_maxima() -> None:
    first, second = torch.tensor([[[2.0, 4.0]]]), torch.tensor([[[30.0, 10.0]]])
    torch.testing.assert_close(fuse([first, second], "mean"), torch.tensor([[[0.75, 2 / 3]]]))
    torch.testing.assert_close(fuse([first, second], "max"), torch.ones(1, 1, 2))
    torch.testing.assert_close(fuse([first, second], "product"), torch.tensor([[[0.5, 1 / 3]]]))
    below = torch.tensor([[[-4.0, -1.0]]])  # evidence against everywhere is not turned into evidence
    torch.testing.assert_close(fuse([below, below], "mean"), torch.tensor([[[-1.0, -0.25]]]))


def made(seed: int, size: tuple[int, ...] = (7, 7)) -> Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def test_maps_that_differ_by_a_factor_are_equal() -> None:
    seen: dict = {}
    first = map_ids(made(1), seen)
    assert len(set(first)) == 1  # of different cases they are not compared
    factors = torch.tensor([1e-30, 1e5, 3.0]).view(-1, 1, 1)
    assert map_ids(made(1) * factors, seen) == first
    assert map_ids(made(1) + 3e-7 * made(2), seen) == first  # rounding
    assert not set(map_ids(-made(1), seen)) & set(first)
    assert not set(map_ids(made(1).mT.contiguous(), seen)) & set(first)
    assert not set(map_ids(made(1) + 1e-4 * made(2), seen)) & set(first)


def test_cases_of_one_job_are_compared_one_by_one() -> None:
    seen: dict = {}
    first, second = map_ids(made(1), seen), map_ids(made(2), seen)
    mixed = torch.stack([made(1)[0], made(2)[1], made(3)[2]])
    names = map_ids(mixed, seen)
    assert names[:2] == [first[0], second[1]] and names[2] not in (first[2], second[2])
    assert map_ids(mixed, seen) == names  # also the one that was new


def test_another_native_shape_is_another_map() -> None:
    seen: dict = {}
    square = map_ids(made(1, (4, 4)), seen)
    assert not set(map_ids(made(1, (4, 4)).view(3, 2, 8), seen)) & set(square)


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0, torch.nan, torch.inf])
def test_degenerate_maps_of_a_case_are_equal_whatever_their_shape(value: float) -> None:
    seen: dict = {}
    map_ids(made(1), seen)
    for size in ((7, 7), (3, 5)):
        native = made(2, size)
        native[1] = value
        names = map_ids(native, seen)
        assert names[1] == "degenerate" and "degenerate" not in (names[0], names[2])
    partly = made(3)
    partly[0, 2, 2] = torch.nan
    assert map_ids(partly, seen)[0] == "degenerate"


def test_methods_that_are_one_by_their_formulas_have_equal_maps() -> None:
    """Before global average pooling Grad-CAM, HiResCAM and Respond-CAM agree; at another layer they do not."""
    network, batch = make_network(), make_batch()
    names = ["grad_cam", "hirescam", "respond_cam", "xgrad_cam", "layer_cam", "activation_sum"]
    last, before = dict[str, list](), dict[str, list]()
    for layer, ids in (("3", last), ("1", before)):
        seen: dict = {}
        for name in names:
            ids[name] = map_ids(maps(part("method", name), network, batch, layer), seen)
    for case in range(2):
        assert len({last[name][case] for name in names}) == 3
        assert len({last[name][case] for name in names[:4]}) == 1
        assert len({before[name][case] for name in names}) == 5
        assert before["respond_cam"] == before["xgrad_cam"]


def module_at(path: str, code: str) -> types.ModuleType:
    module = types.ModuleType("made")
    exec(compile(code, path, "exec"), module.__dict__)
    return module


def test_only_errors_of_a_methods_own_code_are_the_users() -> None:
    code = "def method(x=0):\n    if not x: raise ValueError('x is too small')\n    x()"

    def torchs() -> None:
        raise ValueError("deep inside")

    for folder in ("methods", "metrics"):
        method = module_at(f"/anywhere/{folder}/of_mine.py", code).method
        with pytest.raises(UserError, match="mine: x is too small"), named_errors("mine"):
            method()
        with pytest.raises(ValueError, match="^deep inside"), named_errors("mine"):
            method(torchs)
    other = module_at("/anywhere/else/of_mine.py", code).method
    with pytest.raises(ValueError, match="^x is too small"), named_errors("mine"):
        other()


def test_a_method_that_refuses_a_layer_is_named() -> None:
    network, batch = make_network(), make_batch()
    with pytest.raises(UserError, match="^cam: "):
        maps(part("method", "cam"), network, batch, "1")
