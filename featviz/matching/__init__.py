"""Which unit of B answers to which unit of A: matching methods, alignments and the unit indexer."""
