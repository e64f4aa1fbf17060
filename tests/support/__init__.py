"""What tests share: inputs, oracles, small models, tolerances, processes."""
