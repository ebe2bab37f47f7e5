"""What a ticket has to beat: other blocks, filters, single weights, a shallower network."""
