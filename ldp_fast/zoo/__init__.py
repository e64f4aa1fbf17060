"""The embedded models and how they were made: `world` renders, `train` remakes, `evaluate` measures."""
