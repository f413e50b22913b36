"""Metrics: functions from heatmaps and a batch of cases to one value or curve per case."""
