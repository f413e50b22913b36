"""CAM methods: plain functions of one layer's activations and gradients; `bench/conf/method` is the list of names."""
