"""The paper's applications, each a command of `ldp-fast`."""
