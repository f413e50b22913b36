"""Results on disk -> tables, statistics, rankings, curves; loads no torch."""
