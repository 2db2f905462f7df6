"""The version of featviz, as its build reads it; known too where featviz is not installed but on the path."""

__version__ = "0.2.0"
