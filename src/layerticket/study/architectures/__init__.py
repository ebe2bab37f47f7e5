"""What layerticket can do with the architectures of other libraries: one row each."""
