"""The Triton kernels behind `torch.ops.ldp_fast.*`, and their plain launchers.

Installed as `ldp_fast.kernels`. Each module holds the kernels of one operator and imports Triton; this file imports
nothing, so that a machine without Triton can import the package.
"""
