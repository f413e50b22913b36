"""Results of experiments whose truth is known: the crash test of methods, the trial of metrics."""
