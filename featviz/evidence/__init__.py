"""What natural images tell of units: exemplars, agreement and fidelity of merged units, and what became of each feature."""
