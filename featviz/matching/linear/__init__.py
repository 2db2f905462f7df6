"""Methods whose merged units combine several units: ZipIt, CCA Merge, optimal transport."""
