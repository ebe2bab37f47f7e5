"""Builds the smaller network; one that came from Hugging Face leaves as one."""
