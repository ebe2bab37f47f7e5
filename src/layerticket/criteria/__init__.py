"""Criteria: scores of blocks, filters or weights; one file per criterion, formula first."""
