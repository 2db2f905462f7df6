"""How activation and input gradient are computed: folded norms, traced graph and its rewrites, CUDA graph."""
