"""Networks: architectures, weights, what their input looks like, their layers."""
