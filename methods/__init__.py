"""CAM methods: plain functions of one layer's activations and gradients; `conf/method` lists their names."""
