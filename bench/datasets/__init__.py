"""Data sets: functions that return a list of `bench.types.Case`."""
