"""The losses in the code bases people already use: one file per host, see docs/adopting.md.

Importing this package or a file of it imports no host. What a host adapter needs is what it is handed: an object of the
host, whose attributes are read; a host that has to be subclassed is imported inside the function that does it.
"""
