"""Classes of networks and of data sets, and which of them are the same."""
