"""Variants of the test whether a map depends on the network's weights, which answer criticism of the first one."""
