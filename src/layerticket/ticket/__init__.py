"""Tickets: the record of what was removed from a network, and how to find one."""
