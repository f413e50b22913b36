"""Running a benchmark: what is missing is computed and stored."""
