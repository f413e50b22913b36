"""Metrics that need what a data set does not have."""

from __future__ import annotations

from bench.config import GIVEN_TO_METRIC, bind_all, compose_config
from bench.datasets.collage import collage
from bench.datasets.mosaic import mosaic
from bench.runs.setup.checks import usable
from bench.types import Dataset


def test_the_grid_pointing_game_is_for_mosaics_only() -> None:
    assert mosaic(mosaics=2).offers == ("mosaic",) and not isinstance(collage(), Dataset)
    metrics = bind_all(compose_config(["metric=[grid_pointing_game,deletion,pxap]"]).metric, GIVEN_TO_METRIC)
    kept = {
        present: [part.name for part in usable(metrics, present)[0]]
        for present in ((), ("boxes",), ("boxes", "mosaic", "pictures"))
    }
    assert sorted(kept[()]) == ["deletion"] and sorted(kept["boxes",]) == ["deletion", "pxap"]
    assert len(kept["boxes", "mosaic", "pictures"]) == 3
    assert usable(metrics, ["boxes", "pictures"])[1] == [
        "left out, because the pictures are no mosaics: grid_pointing_game"
    ]
