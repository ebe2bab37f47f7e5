"""Where the jobs of a study run: in this process, in others of this machine, on a cluster."""
