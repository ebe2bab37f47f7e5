"""What a block, a filter or a weight is worth: one file a criterion, formula first."""
