"""How activations and their input gradient are computed: eagerly, by a traced graph and its rewrites, by a CUDA graph."""
