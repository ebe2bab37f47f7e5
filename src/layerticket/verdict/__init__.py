"""Compute the verdict over paired seeds, from plain numbers."""
