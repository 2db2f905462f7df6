"""The network whose unit is rendered: its copy, cut at the layers that are looked at, and why it fails."""
