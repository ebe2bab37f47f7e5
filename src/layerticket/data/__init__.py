"""Labelled images in memory or on disk, and batches that follow from (seed, epoch) alone."""
