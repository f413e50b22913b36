"""From config nodes to bound functions; with `bench.__main__` the only room that knows Hydra."""

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind, bind_function, check_settings, written
from bench.config.guard import guard_hydra
from bench.config.nodes import bind_all, build, compose_config, plain
from bench.config.words import check_overrides, explain
from bench.options import CONF, check_name

__all__ = [
    "CONF", "GIVEN_TO_METHOD", "GIVEN_TO_METRIC", "bind", "bind_all", "bind_function", "build", "check_name",
    "check_overrides", "check_settings", "compose_config", "explain", "plain", "written",
]  # fmt: skip

guard_hydra()
