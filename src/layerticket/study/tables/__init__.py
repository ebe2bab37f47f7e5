"""The published tables, each from its runs."""
