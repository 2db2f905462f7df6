"""Which units of a network may be exchanged: permutation groups, found by propagation and proved."""
