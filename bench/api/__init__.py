"""From Python what the command line does: runs, results as tables, and single pictures and maps."""

from bench.analysis.reading import load_results
from bench.api.pictures import Explanation, explain_image, score_map
from bench.api.runs import run, score_maps

__all__ = ["Explanation", "explain_image", "load_results", "run", "score_map", "score_maps"]
