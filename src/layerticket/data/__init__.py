"""Labelled images as uint8 tensors, and batches that follow from (seed, epoch) alone."""
