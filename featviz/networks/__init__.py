"""Networks by name: architectures with fresh weights, and published weights."""
