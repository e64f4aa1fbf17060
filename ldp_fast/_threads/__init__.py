"""How many threads the command line computes with on a CPU, and how they wait for each other.

`cpus` says what this process may use, `choice` what is therefore put into the environment before torch is imported,
`waiting` what is changed while a command runs. Importing any of it changes nothing and loads neither torch nor numpy.
"""
