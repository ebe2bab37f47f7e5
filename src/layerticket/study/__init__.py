"""Studies: many trainings from one file, and the verdict over paired seeds."""
