"""What paired seeds show: numbers in, a verdict out."""
