"""Boxes that are cut from a map, as weakly supervised localization cuts them."""
