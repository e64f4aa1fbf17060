"""What every application needs: folder, lock, typed configuration, checkpoints, loop, jobs, log."""
