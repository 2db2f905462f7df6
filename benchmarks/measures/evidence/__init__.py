"""Measures of the evidence, in the order of the command's help."""

from measures.evidence import bundle, cost, fates, transfer

MEASURES = (fates, transfer, cost, bundle)
