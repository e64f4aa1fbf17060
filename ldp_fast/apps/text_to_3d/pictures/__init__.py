"""Pictures and films of a run's object."""
