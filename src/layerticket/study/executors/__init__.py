"""Where jobs are done: in this process, in processes of this machine, on a Ray cluster."""

__all__: list[str] = []
