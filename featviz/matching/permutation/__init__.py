"""Methods that find a permutation of every group."""
