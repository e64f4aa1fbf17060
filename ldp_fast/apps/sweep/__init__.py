"""Many prompts, methods, losses and seeds: one folder each, and a table at the end."""
