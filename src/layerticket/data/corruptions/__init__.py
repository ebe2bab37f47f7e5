"""The corruptions of CIFAR-10-C, batched and seeded: 15 standard ones, 4 extra, 5 severities."""
