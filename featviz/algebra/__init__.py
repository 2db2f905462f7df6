"""Which unit is which: permutation groups, matchings, alignments and the unit indexer."""
