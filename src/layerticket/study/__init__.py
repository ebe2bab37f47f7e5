"""Many runs as values, and the verdict over paired runs."""
