"""The record of a ticket: find, save, load, apply."""
