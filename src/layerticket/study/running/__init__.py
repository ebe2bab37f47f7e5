"""Run the jobs of a study: in this process, in other local processes, or on a cluster."""
