"""The network whose unit is rendered: its features, its input normalization."""
