"""The 15 standard and 4 extra corruptions of CIFAR-10-C at 5 severities, for seeded batches."""
